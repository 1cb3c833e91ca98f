//! Names that a secret is kept under.

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
    "connectionstring",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "encryptionkey",
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
    "token",
];

/// Names that are one only as a whole.
const WHOLE: &[&str] = &["jwt", "pass", "pwd"];

/// Where a list goes on, or whose progress is meant: tokens that open nothing.
const HARMLESS: &[&str] =
    &["progresstoken", "pagetoken", "nexttoken", "continuationtoken", "synctoken", "stoptoken"];

/// What makes the name of an environment variable a secret's, wherever in it.
const ENVIRONMENT: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL"];

/// Parameters of a URL that hold a secret, besides those that any name tells.
const PARAMETERS: &[&str] = &["auth", "key", "sid", "sig", "session"];

/// Whether what is under this name, in JSON or elsewhere, is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let plain = plain(name);
    if HARMLESS.iter().any(|ending| plain.ends_with(ending)) {
        return false;
    }
    WHOLE.contains(&plain.as_str())
        || ENDINGS.iter().any(|ending| plain.ends_with(ending))
        || is_secret_variable(name)
}

/// Whether this parameter of a URL is a secret.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    let plain = plain(name);
    is_secret(name) || PARAMETERS.contains(&plain.as_str()) || plain.ends_with("signature")
}

/// Whether it is a flag of a command line, and the next word a secret.
pub(super) fn is_secret_flag(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| !name.contains(['=', ' ']) && is_secret(name))
}

/// `STRIPE_KEY_LIVE`, but not `MAX_TOKENS`, which counts them.
fn is_secret_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !name.ends_with("TOKENS")
        && ENVIRONMENT.iter().any(|word| name.contains(word))
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
        for flag in ["--password", "--api-key", "--github-token"] {
            assert!(is_secret_flag(flag), "{flag}");
        }
        for flag in ["--token=x", "password", "--port", "--", "-p"] {
            assert!(!is_secret_flag(flag), "{flag}");
        }
    }
}
