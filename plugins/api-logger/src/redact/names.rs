//! Names that a secret is kept under.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Names that end so are a secret's: `password`, `db_password`, `X-Api-Key`, `accessToken`.
const ENDINGS: &[&str] = &[
    "accesskey",
    "accesskeyid",
    "accountkey",
    "apikey",
    "apikeys",
    "authkey",
    "authorization",
    "clientassertion",
    "clientkeydata",
    "connectionstring",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "encryptionkey",
    "functionskey",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "privatekey",
    "secret",
    "secretkey",
    "secrets",
    "sessionid",
    "signingkey",
    "subscriptionkey",
    "token",
];

/// Names that are one only as a whole.
const WHOLE: &[&str] = &["jwt", "pass", "pwd"];

/// So too, but of one value: what is under them as an object only describes it.
const WHOLE_OF_VALUE: &[&str] = &["mfacode", "otp", "otpcode", "passcode", "sas"];

/// Words that a mnemonic, from which a wallet's keys come, is kept under.
const MNEMONICS: &[&str] = &["mnemonic", "mnemonicphrase", "recoveryphrase", "seedphrase"];

/// Where a list goes on, or whose progress is meant: tokens that open nothing.
const HARMLESS: &[&str] =
    &["progresstoken", "pagetoken", "nexttoken", "continuationtoken", "synctoken", "stoptoken"];

/// What makes the name of an environment variable a secret's, wherever in it.
const ENVIRONMENT: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL"];

/// Parameters of a URL that hold a secret, besides those that any name tells.
const PARAMETERS: &[&str] = &["auth", "key", "otp", "passcode", "sid", "sig", "session"];

/// Words before `pass` and `auth` that make them no password: `first_pass`, `requiresAuth`, `OAuth`.
const NO_PASS: &[&str] = &[
    "all", "band", "boarding", "by", "can", "checks", "color", "compute", "depth", "did", "final", "first",
    "high", "last", "low", "main", "multi", "must", "next", "one", "post", "pre", "render", "second",
    "shadow", "should", "single", "test", "tests", "third", "two", "will",
];
const NO_AUTH: &[&str] = &[
    "disable", "enable", "has", "is", "needs", "no", "o", "pre", "re", "require", "requires", "skip", "use",
    "with", "without",
];

/// What stands in a secret's place where there is none.
const PLAIN: &[&str] = &[
    "and",
    "any",
    "argument",
    "bool",
    "boolean",
    "bytes",
    "disabled",
    "empty",
    "enabled",
    "false",
    "flag",
    "for",
    "if",
    "in",
    "int",
    "integer",
    "is",
    "nil",
    "no",
    "none",
    "null",
    "number",
    "object",
    "off",
    "on",
    "option",
    "optional",
    "or",
    "parameter",
    "required",
    "str",
    "string",
    "to",
    "true",
    "undefined",
    "unset",
    "with",
    "yes",
];

/// Types' names and other words of programs.
const TYPES: &[&str] =
    &["c_int", "c_uint", "c_ulong", "i32", "i64", "match", "self", "u8", "u16", "u32", "u64", "usize"];

/// What is under `auth` and is only a way to sign in.
const WAYS: &[&str] = &[
    "anonymous",
    "api-key",
    "api_key",
    "apikey",
    "aws",
    "basic",
    "bearer",
    "cookie",
    "custom",
    "digest",
    "github",
    "gitlab",
    "google",
    "gssapi",
    "hmac",
    "iam",
    "jwt",
    "kerberos",
    "ldap",
    "local",
    "login",
    "md5",
    "mtls",
    "negotiate",
    "ntlm",
    "oauth",
    "oauth1",
    "oauth2",
    "oidc",
    "password",
    "plain",
    "public-key",
    "publickey",
    "saml",
    "scram-sha-256",
    "session",
    "ssh",
    "sso",
    "token",
    "trust",
];

/// Headers that are no secret, next to those that are where an API lists which ones it takes.
const HEADERS: &[&str] = &[
    "*",
    "accept",
    "age",
    "allow",
    "connection",
    "date",
    "etag",
    "expires",
    "forwarded",
    "from",
    "host",
    "link",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "server",
    "te",
    "trailer",
    "upgrade",
    "vary",
    "via",
];

/// What is under a name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    #[default]
    Nothing,
    /// A secret, whatever it is.
    Secret,
    /// A secret, unless it is an object.
    Value,
    /// A secret or a way to sign in.
    Auth,
    /// A number that is known by one, or that of a wire.
    Pin,
    /// A secret if it looks random.
    Random,
    /// The words of a wallet, or the name of a machine's instruction.
    Mnemonic,
    /// User and password.
    User,
    /// A header's value or, in a list of names, the next header.
    Header,
    Cookie,
    Authorization,
}

impl Under {
    /// Whether this value is a secret.
    pub(super) fn hides(self, value: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Secret | Self::Value => true,
            Self::Auth => !is_way(value),
            Self::Pin => value.len() >= 4 && !is_plain(value),
            Self::Random => is_random(value),
            Self::Mnemonic => {
                value.split_ascii_whitespace().nth(5).is_some()
                    || is_random(value) && value.bytes().any(|b| b.is_ascii_uppercase())
            }
            Self::User => value.contains(':'),
            Self::Header => !is_header(value) && value.split_ascii_whitespace().nth(2).is_none(),
            Self::Cookie => value.contains('='),
            Self::Authorization => !is_header(value) && (value.contains(' ') || is_random(value)),
        }
    }

    /// Whether all of an object or array is a secret.
    pub(super) fn hides_all(self, is_object: bool) -> bool {
        matches!(self, Self::Secret) || matches!(self, Self::Value | Self::Auth if !is_object)
    }
}

/// What is under this name, in JSON or elsewhere.
pub(super) fn under(name: &str) -> Under {
    let plain = plain(name);
    let plain = plain.as_str();
    if HARMLESS.iter().any(|ending| plain.ends_with(ending)) {
        return Under::Nothing;
    }
    if WHOLE.contains(&plain)
        || ENDINGS.iter().any(|ending| plain.ends_with(ending))
        || is_secret_variable(name)
    {
        return Under::Secret;
    }
    if WHOLE_OF_VALUE.contains(&plain) {
        return Under::Value;
    }
    if MNEMONICS.contains(&plain) {
        return Under::Mnemonic;
    }
    if plain == "pin" {
        return Under::Pin;
    }
    let (before, last) = last_words(name);
    match last.as_str() {
        "creds" | "pwd" => Under::Secret,
        "pass" if !NO_PASS.contains(&before.as_str()) => Under::Secret,
        "auth" if !NO_AUTH.contains(&before.as_str()) => Under::Auth,
        // Elsewhere it may be a pattern.
        "pat" if is_variable(name) && !before.is_empty() => Under::Secret,
        "pat" if !before.is_empty() => Under::Random,
        _ => Under::Nothing,
    }
}

/// Whether what is under this name is a secret, whatever it is.
pub(super) fn is_secret(name: &str) -> bool {
    under(name) == Under::Secret
}

/// Whether what follows a name in a text is a secret: there, names are words too.
pub(super) fn is_secret_in_text(name: &str, value: &str) -> bool {
    let escapes = value.trim_start_matches('\\');
    let value = unquote(if escapes.starts_with('"') { escapes } else { value });
    if value.starts_with([':', '=', '(']) || is_plain(value) || is_code(value) {
        return false;
    }
    let is_number = |least| value.len() >= least && value.bytes().all(|b| b.is_ascii_digit());
    match under(name) {
        Under::Secret if plain(name) == "pass" => name == "pass" && !is_number(0),
        Under::Auth if name.eq_ignore_ascii_case("auth") => is_basic(value),
        Under::Pin => is_number(4),
        Under::Value => is_number(4) || is_random(value),
        under => under.hides(value),
    }
}

/// Whether this parameter of a URL is a secret.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    let plain = plain(name);
    is_secret(name) || PARAMETERS.contains(&plain.as_str()) || plain.ends_with("signature")
}

/// What the next word is, if this one is a flag of a command line.
pub(super) fn under_flag(word: &str) -> Under {
    let Some(name) = word.strip_prefix('-') else { return Under::Nothing };
    let name = match name.strip_prefix('-') {
        Some(name) => name,
        None if name.len() > 2 => name,
        None => return Under::Nothing,
    };
    match name {
        "pat" => Under::Secret,
        name if name.contains(['=', ' ']) => Under::Nothing,
        name => under(name),
    }
}

/// What the next string of a list is, if this one names a header.
pub(super) fn under_header(name: &str) -> Under {
    let is_name =
        (3..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match name.to_ascii_lowercase().as_str() {
        "cookie" | "set-cookie" => Under::Cookie,
        "authorization" | "proxy-authorization" => Under::Authorization,
        _ if is_name && name.contains('-') && !name.starts_with('-') && is_secret(name) => Under::Header,
        _ => Under::Nothing,
    }
}

/// Whether it is the name of a header, where such a name may well follow another.
pub(super) fn is_header(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic());
    let is_capital = |word: &str| is_word(word) && word.starts_with(|c: char| c.is_ascii_uppercase());
    HEADERS.contains(&lower.as_str())
        || ["accept-", "access-control-", "content-", "if-", "sec-", "user-agent", "x-"]
            .iter()
            .any(|start| lower.starts_with(start) && lower.len() < 40 && lower.split('-').all(is_word))
        || word.contains('-') && word.split('-').all(is_capital)
        || under_header(word) != Under::Nothing
}

/// Whether it says in words that a secret is typed there: `Password field`, `#login-password`.
pub(super) fn is_secret_field(words: &str) -> bool {
    words.len() <= 256
        && words.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| {
            let word = word.to_ascii_lowercase();
            matches!(word.as_str(), "otp" | "passcode" | "passphrase" | "password" | "passwd" | "pwd")
        })
}

/// Whether it looks random: letters and digits, and not few of them.
pub(super) fn is_random(value: &str) -> bool {
    value.len() >= 10
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+/=~-".contains(&b))
        && value.bytes().any(|b| b.is_ascii_digit())
        && value.bytes().any(|b| b.is_ascii_alphabetic())
}

/// Whether it is user and password, with a colon between them, as base64.
pub(super) fn is_basic(value: &str) -> bool {
    STANDARD_NO_PAD.decode(value.trim_end_matches(['=', '.'])).is_ok_and(|decoded| decoded.contains(&b':'))
}

/// Whether nobody would choose it for a secret: `true`, `none`, `string`.
pub(super) fn is_plain(value: &str) -> bool {
    value.is_empty() || PLAIN.contains(&value.trim_end_matches([',', '.', ';']).to_ascii_lowercase().as_str())
}

/// Without the quotes around it.
pub(super) fn unquote(value: &str) -> &str {
    value.trim().trim_matches(['"', '\'', '`'])
}

/// Whether it says how to sign in, and not what with.
fn is_way(value: &str) -> bool {
    let value = value.trim().trim_end_matches([',', '.', ';']);
    is_plain(value)
        || WAYS.contains(&value.to_ascii_lowercase().as_str())
        || value.starts_with('/')
        || value.contains("://")
        || value.split_ascii_whitespace().nth(2).is_some()
}

/// Whether it is of a program: `os.getenv(`, `libc::X`, `{`, a type's name or a small number.
fn is_code(value: &str) -> bool {
    let is_path = |path: &str| {
        path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:!".contains(&b))
            && path.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    };
    let digits = value.strip_prefix("0x").unwrap_or(value);
    value == "{"
        || value.split_once('(').is_some_and(|(path, _)| is_path(path))
        || value.contains("::") && is_path(value)
        || TYPES.contains(&value)
        || digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// `STRIPE_KEY_LIVE`, but not `MAX_TOKENS`, which counts them.
fn is_secret_variable(name: &str) -> bool {
    is_variable(name) && !name.ends_with("TOKENS") && ENVIRONMENT.iter().any(|word| name.contains(word))
}

/// Whether it is written as an environment's variables are.
fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The last two words of a name, which separators and humps part.
fn last_words(name: &str) -> (String, String) {
    let bytes = name.as_bytes();
    let starts_word = |at: usize| {
        let before = at.checked_sub(1).map_or(b'_', |before| bytes[before]);
        !before.is_ascii_alphanumeric()
            || bytes[at].is_ascii_uppercase()
                && (before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase))
    };
    let word_before = |end: usize| {
        let Some(last) = (0..end).rev().find(|&at| bytes[at].is_ascii_alphanumeric()) else {
            return (0, String::new());
        };
        let start = (0..=last).rev().find(|&at| starts_word(at)).unwrap_or(0);
        (start, String::from_utf8_lossy(&bytes[start..=last]).to_ascii_lowercase())
    };
    let (start, last) = word_before(name.len());
    (word_before(start).1, last)
}

/// As it is compared: the same for `X-Api-Key`, `xApiKey` and `X_API_KEY`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_however_they_are_written() {
        for name in [
            "authorization",
            "Authorization",
            "Proxy-Authorization",
            "cookie",
            "Set-Cookie",
            "apiKey",
            "api_key",
            "x-api-key",
            "OPENAI_API_KEY",
            "STRIPE_KEY_LIVE",
            "token",
            "accessToken",
            "refresh_token",
            "id-token",
            "secret",
            "clientSecret",
            "Password",
            "db_password",
            "passwd",
            "pwd",
            "passphrase",
            "credential",
            "credentials",
            "privateKey",
            "sessionId",
            "Mcp-Session-Id",
            "aws_secret_access_key",
            "aws_access_key_id",
        ] {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for name in [
            "",
            "progressToken",
            "progress_token",
            "cursor",
            "nextCursor",
            "nextPageToken",
            "maxTokens",
            "max_tokens",
            "MAX_TOKENS",
            "inputTokens",
            "key",
            "keyboard",
            "monkey",
            "PATH",
            "tokenizer",
            "passed",
            "uri",
            "name",
            "secretary",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn parameters_and_flags_are_known_too() {
        for name in ["token", "key", "sig", "X-Amz-Signature", "access_token", "client_secret", "api-key"] {
            assert!(is_secret_parameter(name), "{name}");
        }
        for name in ["page", "cursor", "pageToken", "q", "id", "monkey"] {
            assert!(!is_secret_parameter(name), "{name}");
        }
        for flag in ["--password", "--api-key", "--github-token", "--pass", "--pwd", "--pat", "-password"] {
            assert_eq!(under_flag(flag), Under::Secret, "{flag}");
        }
        for flag in ["--token=x", "password", "--port", "--", "-p", "", "-", "--bypass", "--path"] {
            assert_eq!(under_flag(flag), Under::Nothing, "{flag}");
        }
    }

    #[test]
    fn words_at_a_name_s_end_count_where_they_begin() {
        for name in [
            "DB_PASS",
            "smtp_pass",
            "smtpPass",
            "smtp.pass",
            "DBPass",
            "MYSQL_PWD",
            "userPwd",
            "awsCreds",
            "GITHUB_PAT",
            "client-key-data",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "connectionString",
        ] {
            assert_eq!(under(name), Under::Secret, "{name}");
        }
        for (name, expected) in [
            ("githubPat", Under::Random),
            ("REDIS_AUTH", Under::Auth),
            ("_auth", Under::Auth),
            ("auth", Under::Auth),
            ("otp", Under::Value),
            ("passcode", Under::Value),
            ("sas", Under::Value),
            ("pin", Under::Pin),
            ("mnemonic", Under::Mnemonic),
        ] {
            assert_eq!(under(name), expected, "{name}");
        }
        for name in [
            "bypass",
            "compass",
            "first_pass",
            "multiPass",
            "lowPass",
            "OAuth",
            "useOAuth",
            "requiresAuth",
            "author",
            "pat",
            "path",
            "format",
            "spin",
            "pinned",
            "pinCount",
            "cwd",
            "OLDPWD",
            "sass",
            "client-certificate-data",
            "certificate-authority-data",
            "-",
            "\u{e4}\u{df}",
        ] {
            assert_eq!(under(name), Under::Nothing, "{name}");
        }
    }

    #[test]
    fn some_names_hide_only_some_values() {
        for (name, value) in [
            ("auth", "dXNlcjpTM2NyM3Q="),
            ("auth", "hunter2"),
            ("pin", "1234"),
            ("githubPat", "abcdefghij0123"),
            ("mnemonic", "legal winner thank year wave sausage worth"),
        ] {
            assert!(under(name).hides(value), "{name} {value}");
        }
        for (name, value) in [
            ("auth", "basic"),
            ("auth", "OAuth2"),
            ("auth", "none"),
            ("auth", "/login"),
            ("auth", "https://example.com/auth"),
            ("auth", "What is needed here"),
            ("pin", "13"),
            ("filePat", "*.rs"),
            ("datePat", "yyyy-mm-dd"),
            ("mnemonic", "vfmadd132pd"),
        ] {
            assert!(!under(name).hides(value), "{name} {value}");
        }
    }

    #[test]
    fn headers_are_told_from_what_they_hold() {
        for (name, value) in [
            ("X-Api-Key", "S3cr3tValue9"),
            ("Cookie", "sid=x"),
            ("authorization", "token x"),
            ("Ocp-Apim-Subscription-Key", "0123456789abcdef"),
        ] {
            assert!(under_header(name).hides(value), "{name} {value}");
        }
        for (name, value) in [
            ("X-Api-Key", "Content-Type"),
            ("Authorization", "Accept"),
            ("Authorization", "X-Api-Key"),
            ("Cookie", "cake"),
            ("password", "username"),
            ("Accept", "x"),
            ("--api-key", "x"),
        ] {
            assert!(!under_header(name).hides(value), "{name} {value}");
        }
    }
}
