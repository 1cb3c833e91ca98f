//! Secrets that are lines of their own: YAML's blocks, and files with one secret a line.

use std::borrow::Cow;

use super::edits::Edits;
use super::names::{self, Under};

/// Endings of files: `lib.rs:120:…` is a place, not a database.
const FILES: &[&str] = &[
    "c", "cc", "cpp", "css", "go", "h", "html", "java", "js", "json", "jsx", "kt", "log", "lua", "md", "php",
    "py", "rb", "rs", "sh", "sql", "swift", "toml", "ts", "tsx", "txt", "xml", "yaml", "yml",
];

/// A line `name: value`.
struct Member<'a> {
    /// Where the name begins.
    column: usize,
    /// It begins an element of a list.
    is_element: bool,
    name: &'a str,
    value: &'a str,
}

/// Takes out secrets that the lines before them tell.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    let mut edits = Edits::new(text);
    // Columns of the name of a block that is a secret; of a secret's name whose value may follow; and of
    // what says which secret the next `value` is.
    let (mut block, mut next, mut named): (Option<usize>, Option<_>, Option<(usize, Under)>) =
        (None, None, None);
    let names_pgpass = text.contains("pgpass");
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let start = end;
        end += line.len();
        let content = line.trim();
        if content.is_empty() {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if block.take_if(|column| indent <= *column).is_none() && block.is_some() {
            edits.replace(start..end, "");
            continue;
        }
        let place = |part: &str| {
            let at = part.as_ptr() as usize - text.as_ptr() as usize;
            at..at + part.len()
        };
        if let Some((column, under)) = next.take()
            && indent > column
            && is_scalar(content, under)
        {
            edits.redact(place(content));
            continue;
        }
        let Some(Member { column, is_element, name, value }) = member(line) else {
            named.take_if(|(column, _)| indent < *column);
            if let Some(password) = pgpass(content, names_pgpass) {
                edits.redact(place(password));
            }
            continue;
        };
        named.take_if(|named| column < named.0 || is_element && column == named.0);
        let lower = name.to_ascii_lowercase();
        let of_named = named.filter(|named| named.0 == column && matches!(lower.as_str(), "value" | "v"));
        let under = of_named.map_or_else(|| names::under(name), |(_, under)| under);
        if matches!(lower.as_str(), "name" | "key" | "k") {
            named = Some((column, names::under(names::unquote(value))))
                .filter(|(_, under)| *under != Under::Nothing);
        } else if under == Under::Nothing {
        } else if is_block(value) {
            edits.redact(place(value));
            block = Some(column);
        } else if value.is_empty() {
            next = Some((column, under)).filter(|_| !name.contains(' '));
        } else if of_named.is_some() && under.hides(names::unquote(value)) {
            edits.redact(place(value));
        }
    }
    edits.finish()
}

fn member(line: &str) -> Option<Member<'_>> {
    let mut rest = line.trim_start();
    let mut is_element = false;
    while let Some(element) = rest.strip_prefix("- ") {
        rest = element.trim_start();
        is_element = true;
    }
    let column = line.len() - rest.len();
    let (name, value) = rest.split_once(':')?;
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '"' | '\'' | '/');
    let is_name = !name.is_empty() && name.len() <= 64 && name.chars().all(is_part);
    let goes_on = value.is_empty() || value.starts_with(char::is_whitespace);
    (is_name && goes_on).then(|| Member {
        column,
        is_element,
        name: names::unquote(name),
        value: value.trim(),
    })
}

/// Whether the lines that follow are the value: `|`, `>-`.
fn is_block(value: &str) -> bool {
    let Some(rest) = value.strip_prefix(['|', '>']) else { return false };
    let rest = rest.trim_start_matches(|c: char| c == '+' || c == '-' || c.is_ascii_digit());
    rest.is_empty() || rest.trim_start().starts_with('#') && rest.starts_with(char::is_whitespace)
}

/// Whether a line is the value of the line before: one word, or in quotes.
fn is_scalar(content: &str, under: Under) -> bool {
    let value = names::unquote(content.trim_end_matches(','));
    let in_quotes = content.starts_with(['"', '\'']) && !content.contains(": ");
    let is_word = !content.contains(char::is_whitespace)
        && !content.ends_with(':')
        && !content.contains("://")
        && !content.starts_with(['-', '#', '{', '[', '}', ']', '&', '*', '!', '|', '>', '<', '@', '(', '`']);
    (is_word || in_quotes) && !names::is_plain(value) && under.hides(value)
}

/// The password of a line of pgpass, `host:port:database:user:password`.
fn pgpass(line: &str, names_pgpass: bool) -> Option<&str> {
    if line.starts_with('#') || line.contains(char::is_whitespace) {
        return None;
    }
    let mut fields = line.splitn(5, ':');
    let mut field = || fields.next().filter(|field| !field.is_empty());
    let (host, port, database, _, password) = (field()?, field()?, field()?, field()?, field()?);
    let is_number = |field: &str| field.bytes().all(|b| b.is_ascii_digit());
    let is_port = port == "*" || port.len() <= 5 && is_number(port);
    let ending = host.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_sure = (port == "*" || port.len() >= 3)
        && !is_number(database)
        && !host.contains(['/', '\\', '"'])
        && !FILES.contains(&ending)
        && !password.replace("\\:", "").contains(':');
    (is_port && (names_pgpass || is_sure)).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_on_lines_go_and_the_others_stay() {
        for (text, expected) in [
            ("a: 1\npassword: |\n  S3\n\n  S4\nnext: 1", "a: 1\npassword: [redacted]\n\nnext: 1"),
            ("password: >- # x\r\n  S3\r\n", "password: [redacted]\r\n"),
            ("- api_key: |2\n    S3\n  b: 1\n", "- api_key: [redacted]\n  b: 1\n"),
            ("client-key-data: |\n  S3", "client-key-data: [redacted]\n"),
            ("password:\n  S3\nnext: 1", "password:\n  [redacted]\nnext: 1"),
            ("db_pass:\n\n  \"S3 x\"\n", "db_pass:\n\n  [redacted]\n"),
            (
                "- name: DB_PASSWORD\n  value: S3 x\n- name: PORT\n  value: 80\n",
                "- name: DB_PASSWORD\n  value: [redacted]\n- name: PORT\n  value: 80\n",
            ),
            (
                "env:\n  - name: \"SMTP_PASS\"\n    type: x\n    value: 'S3'\n",
                "env:\n  - name: \"SMTP_PASS\"\n    type: x\n    value: [redacted]\n",
            ),
            (
                "- name: API_TOKEN\n  value: |\n    S3\n  a: 1",
                "- name: API_TOKEN\n  value: [redacted]\n  a: 1",
            ),
            ("- name: API_TOKEN\n  value: >\n    S3\n", "- name: API_TOKEN\n  value: [redacted]\n"),
            ("Name: DB_PASSWORD\nValue: S3", "Name: DB_PASSWORD\nValue: [redacted]"),
            ("db.example.com:5432:app:me:S3\nb", "db.example.com:5432:app:me:[redacted]\nb"),
            ("*:*:*:me:S3\\:4", "*:*:*:me:[redacted]"),
            ("# .pgpass\nh:80:1:me:S3", "# .pgpass\nh:80:1:me:[redacted]"),
        ] {
            assert_eq!(redact(text), expected);
            assert_eq!(redact(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn other_lines_stay() {
        for text in [
            "",
            "\n\n",
            "- name: PATH\n  value: /bin\n",
            "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      name: db\n      value: x\n",
            "- name: DB_PASSWORD\n- value: x\n",
            "password:\n  type: string\n  format: password\n",
            "password:\nnext\n",
            "secrets:\n  - db\n  - web\n",
            "Password:\n  The one that you chose.\n",
            "token:\n  required\n",
            "Forgot your password:\n  https://example.com/\n",
            "script: |\n  echo password\nrun: >\n  make\n",
            "auth:\n  basic\n",
            "src/lib.rs:120:5:error:unused\nlib.rs:120:a:b:c\n12:30:45:678:9\n00:11:22:33:44:55\n",
            "root:x:0:0:root:/root:/bin/sh\n",
            "a:b:c:d:e",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{text}\n{}", redact(text));
        }
    }
}
