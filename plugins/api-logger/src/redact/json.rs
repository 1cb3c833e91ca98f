//! Secrets in JSON: found by the name of a member, or by the form of a string. Everything else is
//! copied byte for byte.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, Visitor};

use super::{REDACTED, names, patterns};

/// How often a string in JSON is looked into that is JSON itself. Each level doubles the escapes, so
/// that what is below is rare; there, patterns find what they find.
const LEVELS: u32 = 3;

/// JSON without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json<'a> {
    /// The text; borrowed if there was nothing to take out.
    pub(crate) text: Cow<'a, str>,
    /// How many objects and arrays are within each other, at most.
    pub(crate) depth: usize,
}

/// Takes the secrets out of a JSON text; none if it is not JSON.
pub(crate) fn redact(text: &str) -> Option<Json<'_>> {
    redact_level(text, LEVELS)
}

fn redact_level(text: &str, levels: u32) -> Option<Json<'_>> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut copy = Copy { text, out: String::new(), copied: 0, levels };
    let depth = copy.walk();
    Some(Json { text: copy.finish(), depth })
}

/// An object or array that was begun.
#[derive(Debug, Default)]
struct Open {
    is_object: bool,
    /// The next string is a member's name.
    at_name: bool,
    /// The next value is a secret.
    secret: bool,
    /// The next value says what is under `value`, as in `{"name": "PASSWORD", "value": "…"}`.
    names_value: bool,
    /// It said so.
    value_is_secret: bool,
}

/// A copy in the making.
#[derive(Debug)]
struct Copy<'a> {
    text: &'a str,
    out: String,
    /// How much of the text is in `out`, or was replaced there.
    copied: usize,
    levels: u32,
}

impl<'a> Copy<'a> {
    /// Goes through the text, which is JSON; says how deep it is.
    fn walk(&mut self) -> usize {
        let bytes = self.text.as_bytes();
        let mut open: Vec<Open> = Vec::new();
        let (mut at, mut depth) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'"' => {
                    at = string_end(bytes, start);
                    match open.last_mut() {
                        Some(within) if within.at_name => self.name(start, at, within),
                        within => self.string(start, at, within),
                    }
                }
                b'{' | b'[' if take_secret(&mut open) => {
                    at = container_end(bytes, start);
                    self.replace(start, at);
                }
                b'{' | b'[' => {
                    let is_object = byte == b'{';
                    open.push(Open { is_object, at_name: is_object, ..Open::default() });
                    depth = depth.max(open.len());
                }
                b'}' | b']' => {
                    open.pop();
                }
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                    at = scalar_end(bytes, start);
                    // A password may well be a number; `true`, `false` and `null` give nothing away.
                    if take_secret(&mut open) && !byte.is_ascii_alphabetic() {
                        self.replace(start, at);
                    }
                }
                b',' => open.last_mut().into_iter().for_each(|within| within.at_name = within.is_object),
                b':' => open.last_mut().into_iter().for_each(|within| within.at_name = false),
                _ => {}
            }
        }
        depth
    }

    /// The name of a member: says whether its value is a secret, and may hold one itself.
    fn name(&mut self, start: usize, end: usize, within: &mut Open) {
        let Some((name, lossy)) = decode(self.text, start, end) else { return self.replace(start, end) };
        within.secret = names::is_secret(&name) || (within.value_is_secret && name == "value");
        within.names_value = matches!(name.as_ref(), "name" | "key");
        let clean = patterns::redact(&name);
        if lossy || clean != name {
            self.replace_by(start, end, &clean);
        }
    }

    fn string(&mut self, start: usize, end: usize, within: Option<&mut Open>) {
        let Some((string, lossy)) = decode(self.text, start, end) else { return self.replace(start, end) };
        if let Some(within) = within {
            let secret = std::mem::take(&mut within.secret);
            if within.is_object {
                within.value_is_secret |= within.names_value && names::is_secret(&string);
            } else {
                within.secret = names::is_secret_flag(&string);
            }
            if secret {
                return self.replace(start, end);
            }
        }
        let clean = self.inside(&string);
        if lossy || clean != string {
            self.replace_by(start, end, &clean);
        }
    }

    /// A string without its secrets; it may itself be JSON.
    fn inside<'s>(&self, string: &'s str) -> Cow<'s, str> {
        let may_be_json = self.levels > 0 && string.trim_start().starts_with(['{', '[', '"']);
        let json = if may_be_json { redact_level(string, self.levels - 1) } else { None };
        json.map_or_else(|| patterns::redact(string), |json| json.text)
    }

    fn replace(&mut self, start: usize, end: usize) {
        self.replace_by(start, end, REDACTED);
    }

    /// Another string in the place of what is from `start` to `end`.
    fn replace_by(&mut self, start: usize, end: usize, string: &str) {
        self.out.push_str(&self.text[self.copied..start]);
        self.out.push_str(&serde_json::Value::from(string).to_string());
        self.copied = end;
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.push_str(&self.text[self.copied..]);
        Cow::Owned(self.out)
    }
}

/// Whether the value that begins here is a secret.
fn take_secret(open: &mut [Open]) -> bool {
    open.last_mut().is_some_and(|within| std::mem::take(&mut within.secret))
}

/// What a string literal says, and whether that was not quite text. JSON can escape half a character
/// (`"\ud800"`), which must not hide what is next to it.
fn decode(text: &str, start: usize, end: usize) -> Option<(Cow<'_, str>, bool)> {
    let literal = &text[start..end];
    if !literal.contains('\\') {
        return Some((Cow::Borrowed(literal.get(1..literal.len() - 1)?), false));
    }
    let bytes = serde_json::Deserializer::from_str(literal).deserialize_bytes(Bytes).ok()?;
    Some(match String::from_utf8(bytes) {
        Ok(string) => (Cow::Owned(string), false),
        Err(error) => (Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()), true),
    })
}

/// Takes a string's bytes, which serde_json gives even where they are no text.
struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

/// Where the string ends that begins here.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where the object or array ends that begins here.
fn container_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while let Some(byte) = bytes.get(at) {
        at = if *byte == b'"' { string_end(bytes, at) } else { at + 1 };
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Where the number or word ends that begins here.
fn scalar_end(bytes: &[u8], start: usize) -> usize {
    let length =
        bytes[start..].iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
    start + length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        redact(text).unwrap_or_else(|| panic!("not JSON: {text}")).text.into_owned()
    }

    #[test]
    fn json_without_secrets_stays_as_it_is() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"_meta":{"progressToken":"abc"}}}"#,
            r#" {"b" : 12345678901234567890123, "a": 1.10, "a": [1e999, -0.0, true, null] } "#,
            r#"{"result":{"nextCursor":"eyJvZmZzZXQiOjEwMH0=","tools":[{"name":"read"}]}}"#,
            r#"{"params":{"cursor":"page-2"},"usage":{"maxTokens":4096,"inputTokens":12}}"#,
            r#"{"text":"a\/b \u00e4 \ud83d\ude00 \\ \" { [","password":null,"token":true,"secret":false}"#,
            r#"{"text":"{\"a\": [1, 2.50]}"}"#,
            r#"{"uri":"https://example.com/a?page=2&cursor=x#part","mail":"a@b.example"}"#,
            r#"{"text":"The bearer token is missing. Basic authentication is not supported"}"#,
            r#"{"name":"PATH","value":"/usr/bin"}"#,
            r#"["--port","80","word"]"#,
            r#""""#,
            "7",
            "[]",
            &deep,
        ] {
            let json = redact(text).unwrap();
            assert!(matches!(json.text, Cow::Borrowed(same) if same == text), "{text}\n{}", json.text);
        }
    }

    #[test]
    fn what_is_under_a_secret_s_name_goes_as_a_whole() {
        for (text, expected) in [
            (r#"{"Authorization" : "x" , "a":1}"#, r#"{"Authorization" : "[redacted]" , "a":1}"#),
            (
                r#"{"credentials":{"a":["}",{"b":"]"}]},"n":12345678901234567890123}"#,
                r#"{"credentials":"[redacted]","n":12345678901234567890123}"#,
            ),
            (r#"{"cookies":["a","b"],"a":[]}"#, r#"{"cookies":"[redacted]","a":[]}"#),
            (r#"{"password":1234,"x":-5}"#, r#"{"password":"[redacted]","x":-5}"#),
            (r#"{"password":"a","password":"b"}"#, r#"{"password":"[redacted]","password":"[redacted]"}"#),
            (r#"{"pass\u0077ord":"a"}"#, r#"{"pass\u0077ord":"[redacted]"}"#),
            (r#"{"password":"","a":"password"}"#, r#"{"password":"[redacted]","a":"password"}"#),
            (r#"{"token":null,"a":"b"}"#, r#"{"token":null,"a":"b"}"#),
            (r#"[{"api_key":{}},"x"]"#, r#"[{"api_key":"[redacted]"},"x"]"#),
            (
                r#"{"name":"DB_PASSWORD","value":"x","other":"y"}"#,
                r#"{"name":"DB_PASSWORD","value":"[redacted]","other":"y"}"#,
            ),
            (r#"["run","--api-key","x","y"]"#, r#"["run","--api-key","[redacted]","y"]"#),
            (r#"["--token",["x"],"y"]"#, r#"["--token","[redacted]","y"]"#),
        ] {
            assert_eq!(clean(text), expected);
            assert_eq!(clean(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn strings_and_names_are_searched_by_form() {
        for (text, expected) in [
            (r#"{"text":"use ghp_0123456789abcdefghij"}"#, r#"{"text":"use [redacted]"}"#),
            (r#"{"sk-0123456789abcdef":1}"#, r#"{"[redacted]":1}"#),
            (r#"["a\nOPENAI_API_KEY=x y\nHOME=/root"]"#, r#"["a\nOPENAI_API_KEY=[redacted]\nHOME=/root"]"#),
            (r#""gh\u0070_0123456789abcdefghij""#, r#""[redacted]""#),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    #[test]
    fn json_in_strings_is_looked_into() {
        let mut text = r#"{"password":"hunter2","a":1}"#.to_owned();
        for level in 0..6 {
            text = serde_json::json!({ "text": text }).to_string();
            let clean = clean(&text);
            assert!(!clean.contains("hunter2"), "level {level}: {clean}");
            assert!(clean.contains("a\\"), "level {level}: {clean}");
        }
    }

    #[test]
    fn half_a_character_hides_nothing() {
        let text = r#"{"text":"\ud800 ghp_0123456789abcdefghij","\udc00password":"x","a":"\ud800"}"#;
        let clean = clean(text);
        assert_eq!(
            clean,
            "{\"text\":\"\u{fffd}\u{fffd}\u{fffd} [redacted]\",\"\u{fffd}\u{fffd}\u{fffd}password\":\"[redacted]\",\"a\":\"\u{fffd}\u{fffd}\u{fffd}\"}"
        );
    }

    #[test]
    fn depth_is_counted_and_what_is_no_json_is_told() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a":[{}],"b":[]}"#, 3)] {
            assert_eq!(redact(text).unwrap().depth, depth, "{text}");
        }
        for text in ["", "{", "{}{}", "[1,]", "hello", "\"a", "{\"a\":\"\u{1}\"}"] {
            assert_eq!(redact(text), None, "{text}");
        }
    }

    /// Numbers that look random, the same in each run.
    fn random(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn nothing_makes_it_panic_and_json_stays_json() {
        let pieces = [
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "d800", "token", "--token", "-1", "e", " ",
            "\u{e4}",
        ];
        let mut random = random(1);
        for _ in 0..20_000 {
            let text: String = (0..random(12)).map(|_| pieces[random(pieces.len())]).collect();
            // Within an array it is JSON more often.
            for text in [format!("[\"{text}\"]"), format!("{{\"token\":{text}}}"), text] {
                if let Some(json) = redact(&text) {
                    assert!(serde_json::from_str::<IgnoredAny>(&json.text).is_ok(), "{text}\n{}", json.text);
                }
                let _ = patterns::redact(&text);
            }
        }
    }

    #[test]
    fn a_secret_is_found_wherever_it_is_and_nothing_else_changes() {
        use serde_json::{Value, json};
        let mut random = random(2);
        for _ in 0..2000 {
            let (mut with, mut without) = match random(4) {
                0 => (
                    json!({ "a": 1, "apiKey": "S3cr3t", "b": [1.5] }),
                    json!({ "a": 1, "apiKey": REDACTED, "b": [1.5] }),
                ),
                1 => (json!({ "password": { "x": ["S3cr3t"] } }), json!({ "password": REDACTED })),
                2 => (json!("see https://u:S3cr3t@h/p"), json!("see https://[redacted]@h/p")),
                _ => (json!("PATH=/bin\nX_TOKEN=S3cr3t\n"), json!("PATH=/bin\nX_TOKEN=[redacted]\n")),
            };
            for _ in 0..random(8) {
                let around = random(4);
                let wrap = |inner: Value| match around {
                    0 => json!([null, inner, "x\"y\\"]),
                    1 => json!({ "\u{e4}": inner, "n": -0.25e10, "progressToken": "p" }),
                    2 => json!({ "cursor": "c", "content": [{ "type": "text", "text": inner }] }),
                    _ => json!([[[inner]], { "name": "x", "value": "y" }]),
                };
                (with, without) = (wrap(with), wrap(without));
            }
            if random(2) == 0 {
                (with, without) =
                    (json!({ "text": with.to_string() }), json!({ "text": without.to_string() }));
            }
            assert_eq!(clean(&with.to_string()), without.to_string());
        }
    }
}
