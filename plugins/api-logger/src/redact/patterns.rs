//! Secrets in plain text, found by their form or by what stands before them.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use regex::{Captures, Regex};

use super::{REDACTED, names};

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
        // User and password in a URL.
        rule(r#"(://)[^\s/?#"'<>\\@:]*:[^\s/?#"'<>\\]*(?<after>@)"#, always),
        // A URL's parameter, or a form's.
        rule(r#"([?&;#])(?<name>[A-Za-z0-9_.~-]{1,64})(?<sign>=)(?<value>[^&\s"'`<>#\\;]+)"#, |name, _| {
            names::is_secret_parameter(name)
        }),
        // What says of itself that it is a secret: a JWT; keys by their maker's prefix.
        rule(r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){1,3}", always),
        rule(PREFIXED, always),
        rule(&format!(r"(?<edge>{EDGE})(?:{PREFIXED_AT_EDGE})"), always),
        // A line of an environment, to its end: what it holds may have spaces.
        rule(
            &format!(r"(?m)^([ \t]*(?:export |set |\$env:)?[A-Z0-9_]*{VARIABLE}[A-Z0-9_]*=)[^\r\n]+"),
            always,
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
        // `--password value`, `-u user:password`.
        rule(
            r#"(--(?i:[a-z-]*(?:password|passwd|passphrase|secret|token|api-?key))[ \t]+["']?)[^\s"'-][^\s"']*"#,
            always,
        ),
        rule(r#"((?:^|[ \t])(?:-u|--user)[ =]["']?)[^\s:"']+:[^\s"']+"#, always),
    ]
});

/// What stands before a word: anything but a letter or digit, or the end of an escape (`\n`, `%20`).
const EDGE: &str = r"^|[^A-Za-z0-9]|\\[nrtbf]|%[0-9A-Fa-f]{2}";

const HEADER: &str =
    r"(?i:proxy-authorization|authorization|set-cookie2?|cookie|x-api-key|x-auth-token|mcp-session-id)[ \t]*";

/// These are found nowhere else, not even in base64.
const PREFIXED: &str = r"km_live_[A-Za-z0-9_-]+|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_[A-Za-z0-9_]{10,}|glpat-[A-Za-z0-9_.-]{10,}|xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16}|[rs]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{8,}|AGE-SECRET-KEY-1[A-Z0-9]+|pypi-[A-Za-z0-9_-]{16,}";

/// These are too short to be sure in the middle of a word.
const PREFIXED_AT_EDGE: &str = r"sk-[A-Za-z0-9_-]{10,}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{10,}|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{20,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}";

const VARIABLE: &str = r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)";

/// How names end that a secret follows.
const NAME: &str = r"(?i:pass(?:word|wd|phrase)|secret|(?:api|access|secret|private|account|encryption|signing|auth)[_-]?key|credentials?|(?:access|refresh|auth|bearer|session|security|api|client|csrf|xsrf)[_-]?token|session[_-]?id|authorization|cookie|(?:^|[^a-z0-9_-])pwd)";

/// What stands between a name and its value.
const SIGN: &str = r#"\\*["'`]?[ \t]*(?:=>|:=|[:=])[ \t]*"#;

/// A value in quotes (those of JSON in a text may have been escaped), or up to the next space, the end
/// of a form's field or of a list's element.
const VALUE: &str = r#"(?:(\\+")[^"]+|(")(?:[^"\\]|\\[\s\S])+|(')(?:[^'\\]|\\[\s\S])+|(`)[^`]+|[^\s"'`\\<>,;&](?:,?[^\s"'`<>,;&])*)"#;

/// Takes the secrets out of a text.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
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
    let secret = [found.name("value"), found.name("after")];
    let before = found.iter().skip(1).flatten().filter(|group| !secret.contains(&Some(*group)));
    let before: String = before.map(|group| group.as_str()).collect();
    format!("{before}{REDACTED}{}", group("after"))
}

/// Whether what follows `Bearer` or `Basic` is a credential, or the sentence goes on.
fn is_credential(scheme: &str, value: &str) -> bool {
    if scheme.trim_ascii_end().eq_ignore_ascii_case("basic") {
        // User and password, with a colon between them.
        let value = value.trim_end_matches(['=', '.']);
        return STANDARD_NO_PAD.decode(value).is_ok_and(|decoded| decoded.contains(&b':'));
    }
    let word = value.trim_end_matches(['.', '-']).to_ascii_lowercase();
    // `Bearer realm="…"` asks for a credential.
    let asks =
        value.strip_suffix('=').is_some_and(|name| name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
    !asks && !PROSE.contains(&word.as_str())
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
