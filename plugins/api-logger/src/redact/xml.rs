//! Secrets between tags and in their attributes.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::edits::Edits;
use super::names::{self, Under};

static TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"<(?<close>/?)(?<name>[A-Za-z_][A-Za-z0-9_.:-]*)(?<rest>(?:[^<>"']|"[^"<]*"|'[^'<]*')*)>"#)
        .expect("a test compiles it")
});

static ATTRIBUTE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?<name>[A-Za-z_:][A-Za-z0-9_:.-]*)\s*=\s*(?:"(?<double>[^"]*)"|'(?<single>[^']*)')"#)
        .expect("a test compiles it")
});

/// Takes out what is in elements and attributes of a secret's name.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    let mut edits = Edits::new(text);
    if !text.contains('<') {
        return edits.finish();
    }
    // The tag before, if it opened an element; what its own text is, and what the next `<value>` is.
    let mut opened: Option<(&str, usize)> = None;
    let (mut own, mut named) = (Under::Nothing, Under::Nothing);
    for tag in TAG.captures_iter(text) {
        let (name, whole) = (tag.name("name").map_or("", |name| name.as_str()), tag.get_match());
        let local = name.rsplit(':').next().unwrap_or(name);
        if tag.name("close").is_some_and(|close| !close.is_empty()) {
            let Some((_, start)) = opened.take().filter(|(opened, _)| *opened == name) else { continue };
            let content = &text[start..whole.start()];
            let value = names::unquote(content);
            if is_name(local) {
                named = names::under(value);
            } else if hides(names::under(local), value) || hides(own, value) {
                edits.redact(start..whole.start());
            }
            continue;
        }
        let rest = tag.name("rest").map_or(0..0, |rest| rest.range());
        let told = attributes(text, rest, &mut edits);
        own = match told {
            Under::Nothing if is_value(local) => named,
            told => told,
        };
        if !is_name(local) {
            named = told;
        }
        opened = Some((name, whole.end()));
    }
    edits.finish()
}

fn hides(under: Under, value: &str) -> bool {
    under.hides(value) && !names::is_plain(value)
}

/// Takes the secret out of `key="ApiKey" value="…"`; else says what the element itself is.
fn attributes(text: &str, rest: Range<usize>, edits: &mut Edits<'_>) -> Under {
    let (mut told, mut is_id, mut value) = (Under::Nothing, false, None);
    for attribute in ATTRIBUTE.captures_iter(&text[rest.clone()]) {
        let name = attribute.name("name").map_or("", |name| name.as_str());
        let Some(content) = attribute.name("double").or(attribute.name("single")) else { continue };
        if is_name(name) && told == Under::Nothing {
            (told, is_id) = (names::under(content.as_str()), name.eq_ignore_ascii_case("id"));
        } else if name.eq_ignore_ascii_case("value") {
            value = Some(content);
        }
    }
    match value {
        Some(value) if hides(told, value.as_str()) => {
            edits.redact(rest.start + value.start()..rest.start + value.end());
            Under::Nothing
        }
        // A page's parts have ids too.
        _ if is_id => Under::Nothing,
        _ => told,
    }
}

fn is_name(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "name" | "key" | "id")
}

fn is_value(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "value" | "string" | "data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_between_tags_go_and_the_rest_stays() {
        for (text, expected) in [
            (
                "<server><id>a</id><password>S3&amp;x y</password></server>",
                "<server><id>a</id><password>[redacted]</password></server>",
            ),
            ("<s:DbPass a='>'>S3</s:DbPass>", "<s:DbPass a='>'>[redacted]</s:DbPass>"),
            ("<apiKey><![CDATA[S3]]></apiKey>", "<apiKey>[redacted]</apiKey>"),
            ("<add key=\"ApiKey\" value=\"S3\"/>", "<add key=\"ApiKey\" value=\"[redacted]\"/>"),
            ("<add value='S3' key='ApiKey' />", "<add value='[redacted]' key='ApiKey' />"),
            (
                "<input type=\"password\" name=\"password\" value=\"S3\">",
                "<input type=\"password\" name=\"password\" value=\"[redacted]\">",
            ),
            (
                "<setting name=\"ApiKey\" as=\"String\">\n <value>S3</value>\n</setting><value>v</value>",
                "<setting name=\"ApiKey\" as=\"String\">\n <value>[redacted]</value>\n</setting><value>v</value>",
            ),
            (
                "<property><name>db.password</name>\n<value>S3</value></property>",
                "<property><name>db.password</name>\n<value>[redacted]</value></property>",
            ),
            (
                "<key>Password</key><string>S3</string><key>a</key><string>b</string>",
                "<key>Password</key><string>[redacted]</string><key>a</key><string>b</string>",
            ),
            ("<string name=\"api_key\">S3</string>", "<string name=\"api_key\">[redacted]</string>"),
        ] {
            assert_eq!(redact(text), expected);
            assert_eq!(redact(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn what_only_looks_like_tags_stays() {
        for text in [
            "a < b > c",
            "mysql -u <user> -p <password> <db> then run it",
            "<password></password><token/>",
            "<password>\n<value>x</value></password>",
            "<title>Password reset</title><p>password</p>",
            "<auth>basic</auth><pin>13</pin><pass>true</pass>",
            "<add key=\"Port\" value=\"80\"/>",
            "<p id=\"token\">The token is missing</p>",
            "<label for=\"password\">Password</label>",
            "Vec<Token>::new() </Vec>",
            "<\u{e4}> <a b=\"",
            "<key>Label</key><string>x</string>",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{text}\n{}", redact(text));
        }
    }
}
