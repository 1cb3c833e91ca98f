//! Secrets in plain text, found by their form or by what stands before them.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::{REDACTED, lines, names, xml};

/// One form that secrets have.
struct Rule {
    /// Its groups are what stays: `after` behind the secret, all others before it.
    regex: Regex,
    /// Whether a match is a secret after all, given its groups `name` and `value`.
    holds: fn(name: &str, value: &str) -> bool,
}

/// In this order: what takes more comes first.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let always = |_: &str, _: &str| true;
    let rule = |regex: &str, holds| Rule { regex: Regex::new(regex).expect("a test compiles each"), holds };
    vec![
        // A private key, to its end or the text's.
        rule(
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\z)",
            always,
        ),
        // A header of HTTP, to the end of the line or of the quotes that it is in.
        rule(
            &format!(
                r#"("{HEADER}:[ \t]*)[^"\r\n]+|('{HEADER}:[ \t]*)[^'\r\n]+|({HEADER}[:=][ \t]*)[^\s"'\\][^\r\n]*"#
            ),
            always,
        ),
        rule(
            &format!(r"(?<edge>{EDGE})(?<name>(?i:bearer|basic)[ \t]+)(?<value>[A-Za-z0-9._~+/=-]{{6,}})"),
            is_credential,
        ),
        // User and password in a URL; a token alone; Oracle's.
        rule(r#"(://)[^\s/?#"'<>\\@:]*:[^\s/?#"'<>\\]*(?<after>@)"#, always),
        rule(r"(://)(?<value>[A-Za-z0-9._~%+=-]{12,})(?<after>@)", |_, value| is_token(value)),
        rule(r#"(?i)(jdbc:oracle:[a-z0-9]+:)[^\s/@"'<>\\]+/[^\s@"'<>\\]+(?<after>@)"#, always),
        // URLs that open something by themselves.
        rule(r"(hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/)[A-Za-z0-9/_+-]+", always),
        rule(r"(?i)(discord(?:app)?\.com/api/(?:v[0-9]{1,2}/)?webhooks/[0-9]+/)[A-Za-z0-9_-]+", always),
        rule(r"(api\.telegram\.org/(?:file/)?bot)[0-9]+:[A-Za-z0-9_-]+", always),
        // A URL's parameter, or a form's.
        rule(r#"([?&;#])(?<name>[A-Za-z0-9_.~-]{1,64})(?<sign>=)(?<value>[^&\s"'`<>#\\;]+)"#, |name, _| {
            names::is_secret_parameter(name)
        }),
        // What says of itself that it is a secret: a JWT; keys by their maker's prefix.
        rule(r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){1,3}", always),
        rule(PREFIXED, always),
        rule(&format!(r"(?<edge>{EDGE})(?:{PREFIXED_AT_EDGE})"), always),
        rule(&format!(r"(?<edge>{EDGE})(?<value>{PREFIXED_IF_RANDOM})"), |_, value| names::is_random(value)),
        // A hashed password, as in `/etc/shadow`.
        rule(
            r"\$(?:apr1|[156y]|2[abxy]|sha1|argon2(?:i|d|id))\$[A-Za-z0-9./=,+-]{1,64}\$[A-Za-z0-9./$=,+-]{3,}",
            always,
        ),
        // PuTTY's private key.
        rule(r"(?s)(Private-Lines: [0-9]+\r?\n).*?(?<after>\r?\nPrivate-MAC:|\z)", always),
        // A line of an environment, to its end: what it holds may have spaces.
        rule(
            &format!(r"(?m)^([ \t]*(?:export |set |\$env:)?[A-Z0-9_]*{VARIABLE}[A-Z0-9_]*=)[^\r\n]+"),
            always,
        ),
        rule(
            r"(?m)^([ \t]*(?:export |set |\$env:)?)(?<name>[A-Z0-9_]*_(?:PASS|PWD|AUTH|PAT|CREDS))(=)(?<value>[^\r\n]+)",
            |name, value| names::under(name).hides(value) && !names::is_plain(value),
        ),
        // `NAME=value` elsewhere; `SOME_KEY: value`, since `KEY:` alone is found in prose.
        rule(
            &format!(
                r#"((?:{VARIABLE}[A-Z0-9_]*\\*["'`]?[ \t]*=|_{VARIABLE}[A-Z0-9_]*\\*["'`]?[ \t]*:)[ \t]*){VALUE}"#
            ),
            always,
        ),
        // `password: value`, `"apiKey": "value"`, `secret => value`; tokens, but for harmless ones.
        rule(&format!("({NAME}{SIGN}){VALUE}"), always),
        rule(&format!("(?<name>[A-Za-z0-9_-]*(?i:token))({SIGN}){VALUE}"), |name, _| names::is_secret(name)),
        // Names that are words too.
        rule(
            &format!("(?<name>[A-Za-z0-9_.-]*(?i:{WORD}))({SIGN})(?<value>{VALUE})"),
            names::is_secret_in_text,
        ),
        // `AWS Secret Access Key: …`
        rule(
            r#"(?i)(\b(?:secret[ ]access|access|api|private|secret|account|encryption|signing|auth|client)[ ](?:key|secret|token)(?:[ ]id)?[ \t]*[:=][ \t]*["'`]?)(?<value>[^\s"'`<>,;]{8,})"#,
            |_, value| is_token(value),
        ),
        rule(
            &format!(
                r#"(?i)((?:mnemonic|(?:seed|recovery)[ _-]?phrase){SIGN}["']?)[a-z]+(?:[ \t]+[a-z]+){{11,23}}"#
            ),
            always,
        ),
        // What says what the value is that follows it.
        rule(
            &format!(
                r#"((?i:\b(?:name|key)\b)\\*["']?[ \t]*:\s*\\*["'])(?<name>[A-Za-z0-9_ .-]{{1,64}})(\\*["'][ \t]*,\s*\\*["']?(?i:value)\\*["']?[ \t]*:[ \t]*)(?<value>{VALUE})"#
            ),
            |name, value| names::under(name).hides(names::unquote(value)),
        ),
        rule(
            r#"(["'])(?<name>[A-Za-z-]{3,64})(["'][ \t]*,[ \t]*["'])(?<value>[^"'\r\n]+)"#,
            |name, value| names::under_header(name).hides(value),
        ),
        // `.netrc`, on one line or more.
        rule(
            r"(?m)(\b(?:machine[ \t]+\S+|default)(?:\s+(?:login|account)[ \t]+\S+)+\s+password[ \t]+)\S+",
            always,
        ),
        rule(r"(?m)^([ \t]*machine[ \t]+\S+\s+password[ \t]+)\S+", always),
        // `--password value`, `"--password", "value"`, `-u user:password`.
        rule(
            &format!(r#"(--)(?<name>{FLAG})(\\*["']?[ \t]+)(?<value>{QUOTED}|[^\s"'`-][^\s"'`]*)"#),
            is_secret_of_flag,
        ),
        rule(&format!(r#"(["']--)(?<name>{FLAG})(\\*["'],[ \t]*)(?<value>{QUOTED})"#), is_secret_of_flag),
        rule(r#"((?:^|[ \t])(?:-u|--user)[ =]["']?)[^\s:"']+:[^\s"']+"#, always),
        // Flags that mean a password to their command only.
        rule(
            r#"(\b(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump|mariadb-admin)(?:\.exe)?\b[^\r\n|;&]*?[ \t]["']?-p)["']?[^\s"']+"#,
            always,
        ),
        rule(r#"(\bsshpass[ \t]+(?:-v[ \t]+)?-p[ \t]*)["']?[^\s"']+"#, always),
        rule(r#"(\b(?:redis|valkey)-cli\b[^\r\n|;&]*?[ \t]-a[ \t]+)["']?[^\s"']+"#, always),
        rule(
            r#"(\b(?:docker|podman|nerdctl|buildah|skopeo|helm|az)[ \t][^\r\n|;&]*?login[ \t][^\r\n|;&]*?-p[ \t]+)["']?[^\s"'-][^\s"']*"#,
            always,
        ),
        rule(
            r#"(\bmongo(?:sh|dump|restore|export|import)?[ \t][^\r\n|;&]*?-p[ \t]+)["']?[^\s"'-][^\s"']*"#,
            always,
        ),
    ]
});

/// What stands before a word: anything but a letter or digit, or the end of an escape (`\n`, `%20`).
const EDGE: &str = r"^|[^A-Za-z0-9]|\\[nrtbf]|%[0-9A-Fa-f]{2}";

const HEADER: &str = r"(?i:proxy-authorization|authorization|set-cookie2?|cookie|x-api-key|ocp-apim-subscription-key|x-functions-key|x-auth-token|mcp-session-id)[ \t]*";

/// These are found nowhere else, not even in base64.
const PREFIXED: &str = r"km_live_[A-Za-z0-9_-]+|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_[A-Za-z0-9_]{10,}|glpat-[A-Za-z0-9_.-]{10,}|xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16}|[rs]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{8,}|AGE-SECRET-KEY-1[A-Z0-9]+|pypi-[A-Za-z0-9_-]{16,}";

/// These are too short to be sure in the middle of a word.
const PREFIXED_AT_EDGE: &str = r"sk-[A-Za-z0-9_-]{10,}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{10,}|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{20,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|ntn_[A-Za-z0-9]{20,}|lin_api_[A-Za-z0-9]{16,}|dop_v1_[A-Za-z0-9]{10,}|do[or]_v1_[A-Za-z0-9]{10,}|shp(?:at|ca|pa|ss)_[A-Za-z0-9]{10,}|dckr_(?:pat|oat)_[A-Za-z0-9_-]{10,}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}";

/// These could be a name in a program, but for their letters and digits.
const PREFIXED_IF_RANDOM: &str =
    r"figd_[A-Za-z0-9_-]{10,}|AT[AC]TT3[A-Za-z0-9_=-]{10,}|hv[sbr]\.[A-Za-z0-9_-]{10,}|sbp_[A-Za-z0-9]{10,}";

const VARIABLE: &str = r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)";

/// How names end that a secret follows.
const NAME: &str = r"(?i:pass(?:word|wd|phrase)|secret|(?:api|access|secret|private|account|encryption|signing|auth|subscription|functions)[_-]?key|client-key-data|connection[_-]?string|credentials?|(?:access|refresh|auth|bearer|session|security|api|client|csrf|xsrf)[_-]?token|session[_-]?id|authorization|cookie|(?:^|[^a-z0-9_-])pwd)";

/// How names end that may be those of something else.
const WORD: &str = "pass|pwd|auth|pat|creds|otp|otp_?code|mfa_?code|pin|passcode";

/// What stands between a name and its value.
const SIGN: &str = r#"\\*["'`]?[ \t]*(?:=>|:=|[:=])[ \t]*"#;

/// A value in quotes (those of JSON in a text may have been escaped), or up to the next space, the end
/// of a form's field or of a list's element.
const VALUE: &str = r#"(?:(\\+")[^"]+|(")(?:[^"\\]|\\[\s\S])+|(')(?:[^'\\]|\\[\s\S])+|(`)[^`]+|[^\s"'`\\<>,;&](?:,?[^\s"'`<>,;&])*)"#;

/// A flag of a command line, behind `--`.
const FLAG: &str = "[A-Za-z][A-Za-z0-9_-]*";

/// A value in quotes.
const QUOTED: &str = r#"(\\+")[^"]+|(")(?:[^"\\]|\\[\s\S])+|(')(?:[^'\\]|\\[\s\S])+|(`)[^`]+"#;

/// Takes the secrets out of a text.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
    // Lines and tags come first: rules would take a value's first word for all of it.
    for layout in [lines::redact, xml::redact] {
        if let Cow::Owned(changed) = layout(&clean) {
            clean = Cow::Owned(changed);
        }
    }
    for rule in RULES.iter() {
        if let Cow::Owned(changed) =
            rule.regex.replace_all(&clean, |found: &Captures<'_>| replace(rule, found))
        {
            clean = Cow::Owned(changed);
        }
    }
    clean
}

fn replace(rule: &Rule, found: &Captures<'_>) -> String {
    let group = |name| found.name(name).map_or("", |group| group.as_str());
    if !(rule.holds)(group("name"), group("value")) {
        return found[0].to_owned();
    }
    // Their ranges: whole groups compare the whole text that they are of.
    let secret = ["value", "after"].map(|name| found.name(name).map(|group| group.range()));
    let before = found.iter().skip(1).flatten().filter(|group| !secret.contains(&Some(group.range())));
    let before: String = before.map(|group| group.as_str()).collect();
    format!("{before}{REDACTED}{}", group("after"))
}

/// Whether what follows `Bearer` or `Basic` is a credential, or the sentence goes on.
fn is_credential(scheme: &str, value: &str) -> bool {
    if scheme.trim_ascii_end().eq_ignore_ascii_case("basic") {
        return names::is_basic(value);
    }
    let word = value.trim_end_matches(['.', '-']).to_ascii_lowercase();
    // `Bearer realm="…"` asks for a credential.
    let asks =
        value.strip_suffix('=').is_some_and(|name| name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
    !asks && !PROSE.contains(&word.as_str())
}

fn is_secret_of_flag(flag: &str, value: &str) -> bool {
    let value = names::unquote(value);
    !names::is_plain(value) && names::under_flag(&format!("--{flag}")).hides(value)
}

/// Whether it looks like a token: long, or with letters and digits in it.
fn is_token(value: &str) -> bool {
    let has = |is: fn(&u8) -> bool| value.bytes().any(|b| is(&b));
    value.len() >= 20
        || has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase)
        || names::is_random(value) && !value.contains(['.', '/', '-', '_'])
}

/// What follows `Bearer` in a text about it.
const PROSE: &[&str] = &[
    "access",
    "authentication",
    "authorization",
    "challenge",
    "credential",
    "credentials",
    "header",
    "headers",
    "scheme",
    "schemes",
    "should",
    "token",
    "tokens",
    "tokens,",
    "without",
];

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const JWT: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjdXN0b21lcl8xMjMifQ.c2lnbmF0dXJl-_x";

    /// Texts with a secret, and what is left of them.
    const SECRETS: &[(&str, &str)] = &[
        ("Authorization: Bearer abc.def-123", "Authorization: [redacted]"),
        ("authorization: token abc\r\nHost: x", "authorization: [redacted]\r\nHost: x"),
        ("GET /\nCookie: a=\"b\"; c=d\nX: y", "GET /\nCookie: [redacted]\nX: y"),
        ("Set-Cookie: id=1; HttpOnly", "Set-Cookie: [redacted]"),
        ("curl -H 'X-Api-Key: abc' https://x", "curl -H 'X-Api-Key: [redacted]' https://x"),
        ("curl -H \"Authorization: Basic dTpw\" -v", "curl -H \"Authorization: [redacted]\" -v"),
        ("curl -u user:hunter2 https://x", "curl -u [redacted] https://x"),
        ("sent bearer mysecrettoken to", "sent bearer [redacted] to"),
        ("\\nBearer abcdef123", "\\nBearer [redacted]"),
        ("Basic dXNlcjpwYXNzd29yZA==", "Basic [redacted]"),
        ("key km_live_0123 there", "key [redacted] there"),
        ("sk-proj-0123456789abcdef", "[redacted]"),
        ("(sk-ant-api03-abc_def-0123)", "([redacted])"),
        ("a%20sk-0123456789ab", "a%20[redacted]"),
        ("x\\nsk-0123456789ab", "x\\n[redacted]"),
        ("ghp_0123456789abcdefghijklmnopqrstuvwxyz", "[redacted]"),
        ("gho_0123456789abcdefghijklmnopqrstuvwxyz.", "[redacted]."),
        ("github_pat_11ABCDEFG0_abcdefghijk", "[redacted]"),
        ("glpat-abcdefghij0123456789", "[redacted]"),
        ("xoxb-1234-5678-abcdef", "[redacted]"),
        ("id AKIAIOSFODNN7EXAMPLE!", "id [redacted]!"),
        ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "[redacted]"),
        ("sk_live_0123456789abcdef", "[redacted]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest", "[redacted]\nrest"),
        ("a -----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\ncut off", "a [redacted]"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nx\n-----END PGP PRIVATE KEY BLOCK-----", "[redacted]"),
        ("postgres://app:p@ss@db:5432/x", "postgres://[redacted]@db:5432/x"),
        ("https://sk:@host/a", "https://[redacted]@host/a"),
        ("https://x/a?page=1&token=abc&b=c", "https://x/a?page=1&token=[redacted]&b=c"),
        ("https://x/?key=abc#access_token=def", "https://x/?key=[redacted]#access_token=[redacted]"),
        ("?sv=1&sig=a%2Bb%3D&se=2", "?sv=1&sig=[redacted]&se=2"),
        ("/x?X-Amz-Signature=0a1b&amp;secret=q", "/x?X-Amz-Signature=[redacted]&amp;secret=[redacted]"),
        ("OPENAI_API_KEY=sk-x", "OPENAI_API_KEY=[redacted]"),
        ("HOME=/root\nDB_PASSWORD=correct horse\nLANG=C", "HOME=/root\nDB_PASSWORD=[redacted]\nLANG=C"),
        ("export GITHUB_TOKEN=\"abc\"", "export GITHUB_TOKEN=[redacted]"),
        ("run with MY_SECRET=abc ./x", "run with MY_SECRET=[redacted] ./x"),
        ("{'STRIPE_KEY': 'abc', 'A': 'b'}", "{'STRIPE_KEY': '[redacted]', 'A': 'b'}"),
        ("password: hunter2, user: me", "password: [redacted], user: me"),
        ("db.password = \"hunt\\\"er2\"", "db.password = \"[redacted]\""),
        ("{\"apiKey\":\"a b\",\"n\":1", "{\"apiKey\":\"[redacted]\",\"n\":1"),
        ("{\\\"client_secret\\\": \\\"a b\\\", 1", "{\\\"client_secret\\\": \\\"[redacted]\", 1"),
        ("token=abc", "token=[redacted]"),
        ("github_token: abc", "github_token: [redacted]"),
        ("nextToken=abc,accessToken=def", "nextToken=abc,accessToken=[redacted]"),
        ("password=a,b, user=me", "password=[redacted], user=me"),
        ("Pwd=abc;Database=x", "Pwd=[redacted];Database=x"),
        ("secret => abc", "secret => [redacted]"),
        ("app --db-password hunter2 --port 80", "app --db-password [redacted] --port 80"),
        ("\u{fffd}ghp_0123456789abcdef\u{fffd}", "\u{fffd}[redacted]\u{fffd}"),
        // Names that are words too.
        ("HOME=/root\nDB_PASS=S3 x\nX=1", "HOME=/root\nDB_PASS=[redacted]\nX=1"),
        ("MYSQL_PWD=S3\nX=1", "MYSQL_PWD=[redacted]\nX=1"),
        ("export REDIS_AUTH=S3\nGITHUB_PAT=S4", "export REDIS_AUTH=[redacted]\nGITHUB_PAT=[redacted]"),
        ("db_pass: S3\nport: 1", "db_pass: [redacted]\nport: 1"),
        ("user: me\npass: S3", "user: me\npass: [redacted]"),
        ("smtp.pass=S3, smtpPwd = 'S4'", "smtp.pass=[redacted], smtpPwd = '[redacted]'"),
        ("//r.example.com/:_auth=S3\nx", "//r.example.com/:_auth=[redacted]\nx"),
        ("//r.example.com/:_authToken=S3", "//r.example.com/:_authToken=[redacted]"),
        ("{\"h\":{\"auth\": \"dXNlcjpTMw==\",", "{\"h\":{\"auth\": \"[redacted]\","),
        ("    client-key-data: LS0t\n", "    client-key-data: [redacted]\n"),
        ("Ocp-Apim-Subscription-Key: S3\nA: b", "Ocp-Apim-Subscription-Key: [redacted]\nA: b"),
        ("x-functions-key: S3", "x-functions-key: [redacted]"),
        ("otp: 123456, pin: 1234", "otp: [redacted], pin: [redacted]"),
        ("connectionString=\"Server=h;X=S3\" b", "connectionString=\"[redacted]\" b"),
        ("AWS Secret Access Key: S3cr3tValue9.", "AWS Secret Access Key: [redacted]"),
        (
            "Seed phrase: legal winner thank year wave sausage worth useful legal winner thank yellow. Keep it",
            "Seed phrase: [redacted]. Keep it",
        ),
        // Layouts.
        ("password: |\n  S3\nnext: 1", "password: [redacted]\nnext: 1"),
        ("- name: DB_PASSWORD\n  value: S3\n", "- name: DB_PASSWORD\n  value: [redacted]\n"),
        ("<a><password>S3</password></a>", "<a><password>[redacted]</password></a>"),
        ("<add key=\"ApiKey\" value=\"S3\"/>", "<add key=\"ApiKey\" value=\"[redacted]\"/>"),
        ("{'name': 'DB_PASSWORD', 'value': 'S3'}", "{'name': 'DB_PASSWORD', 'value': '[redacted]'}"),
        ("[('X-Api-Key', 'S3'), ('A', 'b')]", "[('X-Api-Key', '[redacted]'), ('A', 'b')]"),
        ("machine h login me password S3\n", "machine h login me password [redacted]\n"),
        ("machine h\n  login me\n  password S3\nx", "machine h\n  login me\n  password [redacted]\nx"),
        ("default login me password S3", "default login me password [redacted]"),
        ("db.example.com:5432:app:app:S3\n", "db.example.com:5432:app:app:[redacted]\n"),
        // Command lines.
        ("x --pwd=S3 --port 80", "x --pwd=[redacted] --port 80"),
        ("x --pass S3 --port 80", "x --pass [redacted] --port 80"),
        ("[\"x\", \"--pass\", \"S3\", \"y\"]", "[\"x\", \"--pass\", \"[redacted]\", \"y\"]"),
        ("x --pat 'S3 a' b", "x --pat '[redacted]' b"),
        ("docker run -e DB_PASS=S3 img", "docker run -e DB_PASS=[redacted] img"),
        ("docker login -u me -p S3 host", "docker login -u me -p [redacted] host"),
        ("mysql -uroot -pS3 db", "mysql -uroot -p[redacted] db"),
        ("mysqldump -p'S3' db | x", "mysqldump -p[redacted]' db | x"),
        ("sshpass -p S3 ssh h", "sshpass -p [redacted] ssh h"),
        ("redis-cli -h h -a S3 ping", "redis-cli -h h -a [redacted] ping"),
        // Forms.
        ("(https://hooks.slack.com/services/T0/B0/S3)", "(https://hooks.slack.com/services/[redacted])"),
        ("https://discord.com/api/webhooks/1/S3", "https://discord.com/api/webhooks/1/[redacted]"),
        (
            "https://discordapp.com/api/v10/webhooks/1/S3",
            "https://discordapp.com/api/v10/webhooks/1/[redacted]",
        ),
        ("https://api.telegram.org/bot12:S3/getMe", "https://api.telegram.org/bot[redacted]/getMe"),
        ("jdbc:oracle:thin:app/S3@//h:1521/x", "jdbc:oracle:thin:[redacted]@//h:1521/x"),
        ("git clone https://S3cr3tValue9@h/x", "git clone https://[redacted]@h/x"),
        ("https://abcdefghijklmnopqrstuvwx@h/x", "https://[redacted]@h/x"),
        ("ntn_123456789ABS3cr3tValue9xxxxxxx", "[redacted]"),
        ("lin_api_S3cr3tValue9xxxxxxxx", "[redacted]"),
        ("figd_S3cr3tValue9-xxxxxx", "[redacted]"),
        ("ATATT3xFfGF0S3cr3tValue9xxxx=1A", "[redacted]"),
        ("hvs.CAESIS3cr3tValue9", "[redacted]"),
        ("dop_v1_S3cr3tValue9 shpat_S3cr3tValue9", "[redacted] [redacted]"),
        ("sbp_S3cr3tValue9 dckr_pat_S3cr3tValue9", "[redacted] [redacted]"),
        ("npm_0123456789abcdefghijklmnopqrstuvwxyz", "[redacted]"),
        ("pypi-AgEIcHlwaS5vcmcCJDAxMjM", "[redacted]"),
        ("SG.0123456789abcdefghijkl.0123456789abcdefghijkl", "[redacted]"),
        ("rk_live_0123456789abcdef whsec_0123456789", "[redacted] [redacted]"),
        ("admin:$apr1$S3cr3tVa$abc", "admin:[redacted]"),
        ("root:$6$S3cr3tValue9$abc:19000:0:", "root:[redacted]:19000:0:"),
        ("Private-Lines: 1\nS3\nPrivate-MAC: a", "Private-Lines: 1\n[redacted]\nPrivate-MAC: a"),
    ];

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (text, expected) in SECRETS {
            assert_eq!(redact(text), *expected);
            assert_eq!(redact(expected), *expected, "twice is as once");
        }
        assert_eq!(redact(&format!("jwt {JWT}, end")), "jwt [redacted], end");
        assert_eq!(redact(&format!("x{JWT}.a.b")), "x[redacted]");
        assert_eq!(redact(&format!("{}.e30.", &JWT[..20])), "[redacted]", "alg none");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "",
            "hello",
            "The bearer token is missing",
            "Bearer authentication is required.",
            "Bearer resource_metadata=\"https://x/.well-known\"",
            "Basic understanding of Rust",
            "the task-runner-of-ours and sk-learn",
            "https://host:8080/path?email=a@b.example&page=2",
            "ssh://git@github.com/a/b",
            "git@github.com:a/b",
            "https://x/list?pageToken=abc&cursor=def",
            "max_tokens: 100, tokens=5, nextPageToken: abc, progressToken=7",
            "PRIMARY KEY: id",
            "press any key: x",
            "Unexpected token } in JSON",
            "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "the compass: north, bypass=1, path: x, author: me, format=json",
            "first_pass = 3; multi_pass: true; 12 pass: 12, fail: 0; PASS: test_a",
            "if db_pass == other { db_pass::check() } else { db_pass = os.getenv('X') }",
            "http_auth: basic\nuseOAuth=true\nauth: bearer\nrequires_auth: yes",
            "requests.get(url, auth=(user, word))",
            "client-certificate-data: LS0t",
            "file_pat = '*.rs'; date_pat=yyyy",
            "pin: 13, spin: 1234, otp: see below, passcode: needed",
            "mnemonic: mov",
            "Your API key: see below. The private key: yours",
            "the machine is password protected; machine learning password",
            "The --password flag is required, --auth basic, --bypass 12345",
            "run([\"init\", \"--api-key\", &key]); warn(\"api-key\", \"none: what is free runs\")",
            "mysql -u root -p\nmysql --port 80; mkdir -pv a",
            "redis-cli -h h; ls -a x | redis-cli",
            "docker run -p 80:80 img",
            "https://username@h/x ssh://deployment.user@h https://api.slack.com/services/x",
            "https://discord.com/api/v10/channels/1 https://core.telegram.org/bots",
            "jdbc:oracle:thin:@h:1521/x",
            "hvs.some_function(a) sbp_login_information_x ntn_count figd_variable_names",
            "['password', 'username', 'Cookie', 'cake']",
            "['Authorization', 'Content-Type', 'X-Api-Key', 'Accept']",
            "{'name': 'PATH', 'value': '/bin'}",
            "costs $5$ or $6$ each, the $y$-coordinate-of",
            "const LOG_AUTH: c_int = 4; NETKIT_PASS = 0, DEVSTAT_PASS = 0x030; let creds = libc::SCM_CREDS;",
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn many_secrets_in_one_text() {
        let text = (0..1000).fold(String::new(), |mut text, i| {
            let _ = writeln!(text, "{i} ghp_0123456789abcdef{i} https://u:p{i}@h/?token=t{i}x {JWT}");
            text
        });
        let clean = redact(&text);
        assert_eq!(
            clean.lines().nth(7),
            Some("7 [redacted] https://[redacted]@h/?token=[redacted] [redacted]")
        );
    }
}
