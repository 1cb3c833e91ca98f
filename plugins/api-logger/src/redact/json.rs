//! Secrets in JSON: found by the name of a member, or by the form of a string. Everything else is
//! copied byte for byte.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::{Deserializer, IgnoredAny, Visitor};

use super::commands::{self, Command, Flag};
use super::edits::Edits;
use super::names::{self, Under};
use super::{REDACTED, patterns};

/// How often a string in JSON is looked into that is JSON itself. Each level doubles the escapes, so
/// that what is below is rare; there, patterns find what they find.
const LEVELS: u32 = 3;

/// What stands in a secret's place, as JSON.
const QUOTED: &str = "\"[redacted]\"";

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
    let mut copy = Copy { text, edits: Edits::new(text), levels };
    let depth = copy.walk();
    Some(Json { text: copy.edits.finish(), depth })
}

/// An object or array that was begun. There may be millions, so that it is small.
#[derive(Debug, Default)]
struct Open {
    start: usize,
    is_object: bool,
    /// The next string is a member's name.
    at_name: bool,
    /// What the next value is.
    under: Under,
    member: Member,
    /// The command that an array's words are for.
    command: Option<Command>,
    pair: Option<Box<Pair>>,
}

/// Members of an object that say something of each other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Member {
    #[default]
    Other,
    /// Says what is under `value`, as in `{"name": "PASSWORD", "value": "…"}`.
    Name,
    Value,
    /// Says in words what is typed as `text`.
    Field,
    Text,
    /// The type of a JSON Web Key.
    KeyType,
    /// Private in such a key.
    KeyPart,
    /// `k`: the key that is the same for both sides, or a name.
    KeyOrName,
    Command,
    Blob,
}

/// What such members said. Which comes first is the client's choice, so that it is judged at the end.
#[derive(Debug, Default)]
struct Pair {
    named: Under,
    names_field: bool,
    is_key: bool,
    values: Vec<(Member, Range<usize>)>,
}

/// A copy in the making.
#[derive(Debug)]
struct Copy<'a> {
    text: &'a str,
    edits: Edits<'a>,
    levels: u32,
}

impl Copy<'_> {
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
                b'{' | b'[' => {
                    let is_object = byte == b'{';
                    let (under, command) = open.last_mut().map_or_else(Default::default, |within| {
                        (std::mem::take(&mut within.under), within.command.filter(|_| within.is_object))
                    });
                    if under.hides_all(is_object) {
                        at = container_end(bytes, start);
                        self.edits.replace(start..at, QUOTED);
                    } else {
                        open.push(Open { start, is_object, at_name: is_object, command, ..Open::default() });
                        depth = depth.max(open.len());
                    }
                }
                b'}' | b']' => {
                    if let Some(ended) = open.pop() {
                        ended.pair.into_iter().for_each(|pair| self.pair(*pair));
                        open.last_mut().into_iter().for_each(|within| within.note(ended.start..at));
                    }
                }
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                    at = scalar_end(bytes, start);
                    // A password may well be a number; `true`, `false` and `null` give nothing away.
                    if let Some(within) = open.last_mut() {
                        let under = std::mem::take(&mut within.under);
                        if !byte.is_ascii_alphabetic() {
                            if under.hides(&self.text[start..at]) {
                                self.edits.replace(start..at, QUOTED);
                            }
                            within.note(start..at);
                        }
                    }
                }
                b',' => {
                    if let Some(within) = open.last_mut() {
                        (within.at_name, within.member) = (within.is_object, Member::Other);
                    }
                }
                b':' => open.last_mut().into_iter().for_each(|within| within.at_name = false),
                _ => {}
            }
        }
        depth
    }

    /// The name of a member: says what its value is, and may hold a secret itself.
    fn name(&mut self, start: usize, end: usize, within: &mut Open) {
        let Some((name, lossy)) = decode(self.text, start, end) else {
            return self.edits.replace(start..end, QUOTED);
        };
        within.under = names::under(&name);
        within.member = Member::of(&name);
        let clean = patterns::redact(&name);
        if lossy || clean != name {
            self.replace_by(start, end, &clean);
        }
    }

    fn string(&mut self, start: usize, end: usize, within: Option<&mut Open>) {
        let Some((string, lossy)) = decode(self.text, start, end) else {
            return self.edits.replace(start..end, QUOTED);
        };
        let mut member = Member::Other;
        if let Some(within) = within {
            let under = std::mem::take(&mut within.under);
            if within.is_object {
                within.note(start..end);
                within.hear(&string);
                member = within.member;
            } else if !under.hides(&string) {
                match within.command.and_then(|command| commands::flag(command, &string)) {
                    Some(Flag::Here(at)) => {
                        return self.replace_by(start, end, &format!("{}{REDACTED}", &string[..at]));
                    }
                    Some(Flag::Next) => (within.under, within.command) = (Under::Secret, None),
                    Some(Flag::NextAfterColon) => within.under = Under::User,
                    None => {
                        within.under = match names::under_flag(&string) {
                            Under::Nothing => names::under_header(&string),
                            under => under,
                        }
                    }
                }
                within.command = commands::command(&string).or(within.command);
            }
            if under.hides(&string) {
                return self.edits.replace(start..end, QUOTED);
            }
        }
        if member == Member::Blob && self.is_secret_blob(&string) {
            return self.edits.replace(start..end, QUOTED);
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

    /// Whether a resource's blob is text with a secret in it.
    fn is_secret_blob(&self, blob: &str) -> bool {
        let base64: String = blob
            .chars()
            .filter(|c| !c.is_ascii_whitespace() && *c != '=')
            .map(|c| match c {
                '-' => '+',
                '_' => '/',
                c => c,
            })
            .collect();
        let Ok(bytes) = STANDARD_NO_PAD.decode(base64) else { return false };
        let text = String::from_utf8_lossy(&bytes);
        let is_odd = |c: &char| *c == char::REPLACEMENT_CHARACTER || c.is_control() && !c.is_whitespace();
        // A character in twenty may be none.
        text.chars().filter(is_odd).count() <= text.len() / 20 && self.inside(&text) != text
    }

    /// What an object's members said of each other.
    fn pair(&mut self, pair: Pair) {
        for (member, value) in pair.values {
            let under = match member {
                Member::KeyPart | Member::KeyOrName if pair.is_key => Under::Secret,
                Member::Value if pair.named != Under::Nothing => pair.named,
                Member::Value | Member::Text if pair.names_field => Under::Secret,
                _ => continue,
            };
            let (start, end) = (value.start, value.end);
            let hides = match self.text.as_bytes()[start] {
                b'{' => under.hides_all(true),
                b'[' => under.hides_all(false),
                b'"' => decode(self.text, start, end).is_none_or(|(string, _)| under.hides(&string)),
                _ => under.hides(&self.text[start..end]),
            };
            if hides {
                self.edits.replace(value, QUOTED);
            }
        }
    }

    /// Another string in the place of what is from `start` to `end`.
    fn replace_by(&mut self, start: usize, end: usize, string: &str) {
        self.edits.replace(start..end, serde_json::Value::from(string).to_string());
    }
}

impl Open {
    /// A value of the member that it is at.
    fn note(&mut self, value: Range<usize>) {
        if self.is_object
            && matches!(self.member, Member::Value | Member::Text | Member::KeyPart | Member::KeyOrName)
        {
            let member = self.member;
            self.pair().values.push((member, value));
        }
    }

    /// What a member says of the others.
    fn hear(&mut self, string: &str) {
        match self.member {
            Member::Name | Member::KeyOrName => {
                let under = match names::under(string) {
                    Under::Nothing => names::under_header(string),
                    under => under,
                };
                let named = self.pair.as_ref().map_or(Under::Nothing, |pair| pair.named);
                if under != Under::Nothing && named != Under::Secret {
                    self.pair().named = under;
                } else if under == Under::Nothing && names::is_secret_field(string) {
                    self.pair().names_field = true;
                }
            }
            Member::Field if names::is_secret_field(string) => self.pair().names_field = true,
            Member::KeyType => self.pair().is_key = true,
            Member::Command => self.command = commands::command(string),
            _ => {}
        }
    }

    fn pair(&mut self) -> &mut Pair {
        self.pair.get_or_insert_default()
    }
}

impl Member {
    fn of(name: &str) -> Self {
        if name.len() > 16 {
            return Self::Other;
        }
        match name.to_ascii_lowercase().as_str() {
            "name" | "key" | "header" | "variable" | "parameterkey" => Self::Name,
            "value" | "v" | "val" | "parametervalue" => Self::Value,
            "element" | "selector" | "label" | "field" => Self::Field,
            "text" => Self::Text,
            "kty" => Self::KeyType,
            "k" => Self::KeyOrName,
            "d" | "p" | "q" | "dp" | "dq" | "qi" | "oth" => Self::KeyPart,
            "command" | "cmd" | "program" => Self::Command,
            "blob" => Self::Blob,
            _ => Self::Other,
        }
    }
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
            r#"{"auth":{"type":"oauth2"},"b":{"auth":"basic","pin":13,"mnemonic":"mov"}}"#,
            r#"{"required":["password","username","token"],"a":["cookie","cake"]}"#,
            r#"{"allowedHeaders":["Authorization","Content-Type","X-Api-Key","Accept"]}"#,
            r#"{"value":"x","name":"PATH","p":"x","d":1}"#,
            r#"{"name":"DB_PASSWORD","value":null,"description":"x"}"#,
            r#"{"element":"Name field","ref":"e1","text":"x"}"#,
            r#"["mysql","-u","root","-p","--port","80"]"#,
            r#"["ssh","-p","22","ls","-a","x","curl","-u","name"]"#,
            r#"{"client-certificate-data":"LS0t","otp":{"type":"string"},"oauth":"x"}"#,
            // Text without a secret, and bytes.
            r#"{"uri":"file:///a","mimeType":"text/plain","blob":"aGVsbG8gd29ybGQK"}"#,
            r#"{"uri":"file:///a","blob":"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="}"#,
            r#"{"blob":"not base64!","a":{"blob":""}}"#,
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
            (r#"{"env":{"SMTP_PASS":"S3","A":"b"}}"#, r#"{"env":{"SMTP_PASS":"[redacted]","A":"b"}}"#),
            (r#"{"auths":{"h":{"auth":"dTpT"}}}"#, r#"{"auths":{"h":{"auth":"[redacted]"}}}"#),
            (r#"{"auth":["u","S3"],"a":1}"#, r#"{"auth":"[redacted]","a":1}"#),
            (
                r#"{"auth":{"username":"a","password":"S3"}}"#,
                r#"{"auth":{"username":"a","password":"[redacted]"}}"#,
            ),
            (r#"{"otp":123456,"pin":"1234"}"#, r#"{"otp":"[redacted]","pin":"[redacted]"}"#),
            (r#"{"mnemonic":"a b c d e f","sas":"S"}"#, r#"{"mnemonic":"[redacted]","sas":"[redacted]"}"#),
        ] {
            assert_eq!(clean(text), expected);
            assert_eq!(clean(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn members_say_of_each_other_that_they_are_secret() {
        for (text, expected) in [
            (
                r#"{"value":"S3","n":1.50,"name":"DB_PASSWORD"}"#,
                r#"{"value":"[redacted]","n":1.50,"name":"DB_PASSWORD"}"#,
            ),
            (r#"{"v":["S3",{"v":1}],"k":"api_key"}"#, r#"{"v":"[redacted]","k":"api_key"}"#),
            (r#"{"value":{"password":"S3"},"key":"secret"}"#, r#"{"value":"[redacted]","key":"secret"}"#),
            (r#"{"Key":"token","Value":-12}"#, r#"{"Key":"token","Value":"[redacted]"}"#),
            (
                r#"{"value":"a","x":{"name":"token","value":"b"},"name":"c"}"#,
                r#"{"value":"a","x":{"name":"token","value":"[redacted]"},"name":"c"}"#,
            ),
            (r#"{"name":"Cookie","value":"sid=S3"}"#, r#"{"name":"Cookie","value":"[redacted]"}"#),
            (
                r#"{"element":"Password field","ref":"e1","text":"S3"}"#,
                r#"{"element":"Password field","ref":"e1","text":"[redacted]"}"#,
            ),
            (
                r##"{"selector":"#user-password","value":"S3"}"##,
                r##"{"selector":"#user-password","value":"[redacted]"}"##,
            ),
            (
                r#"{"kty":"EC","crv":"P-256","x":"a","d":"S3"}"#,
                r#"{"kty":"EC","crv":"P-256","x":"a","d":"[redacted]"}"#,
            ),
            (r#"{"k":"S3","kty":"oct"}"#, r#"{"k":"[redacted]","kty":"oct"}"#),
        ] {
            assert_eq!(clean(text), expected);
            assert_eq!(clean(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn elements_of_lists_say_it_of_the_next_one() {
        for (text, expected) in [
            (
                r#"["X-Api-Key","S3","Cookie","sid=S3","A","b"]"#,
                r#"["X-Api-Key","[redacted]","Cookie","[redacted]","A","b"]"#,
            ),
            (
                r#"[["Authorization","token S3"],["Accept","x"]]"#,
                r#"[["Authorization","[redacted]"],["Accept","x"]]"#,
            ),
            (
                r#"["x","--pwd=S3","--pass","S3","a"]"#,
                r#"["x","--pwd=[redacted]","--pass","[redacted]","a"]"#,
            ),
            (r#"["docker","run","-e","DB_PASS=S3"]"#, r#"["docker","run","-e","DB_PASS=[redacted]"]"#),
            (r#"["sshpass","-p","S3","ssh","-p","22"]"#, r#"["sshpass","-p","[redacted]","ssh","-p","22"]"#),
            (r#"["/bin/mysql","-uroot","-pS3","db"]"#, r#"["/bin/mysql","-uroot","-p[redacted]","db"]"#),
            (
                r#"{"command":"redis-cli","args":["-a","S3","ping"]}"#,
                r#"{"command":"redis-cli","args":["-a","[redacted]","ping"]}"#,
            ),
            (r#"["curl","-u","me:S3","h"]"#, r#"["curl","-u","[redacted]","h"]"#),
            (r#"["--auth","basic","--auth","S3"]"#, r#"["--auth","basic","--auth","[redacted]"]"#),
        ] {
            assert_eq!(clean(text), expected);
            assert_eq!(clean(expected), expected, "twice is as once");
        }
    }

    #[test]
    fn a_resource_s_blob_is_looked_into() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        for secret in ["API_KEY=S3cr3t\n", "{\"password\":\"S3\"}", "\u{e4}\u{fc}? password: S3"] {
            for blob in [STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret)] {
                let text = format!(r#"{{"uri":"file:///.env","mimeType":"text/plain","blob":"{blob}"}}"#);
                assert_eq!(clean(&text), text.replace(&blob, REDACTED), "{secret}");
            }
        }
        let bytes = [&[0, 1, 2, 255, 254].repeat(20)[..], b"password: S3"].concat();
        let text = format!(r#"{{"blob":"{}"}}"#, STANDARD.encode(bytes));
        assert_eq!(clean(&text), text);
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
        // What layouts, tags and commands are made of.
        let parts = [
            "\n", " ", "  ", "- ", ":", "password", "name", "value", "|", "<", ">", "/", "pass", "=", "\"",
            "'", "\\", "mysql ", "-p", "machine ", "login ", "*", "1", "--", "auth", "\u{e4}", "\r", "://",
            "@", "\t", "cookie", ",", "\u{a0}",
        ];
        let mut more = random(3);
        for _ in 0..20_000 {
            let text: String = (0..more(16)).map(|_| parts[more(parts.len())]).collect();
            let clean = patterns::redact(&text).into_owned();
            assert!(!text.is_ascii() || clean.is_ascii(), "{text}");
            let list = format!("[{}]", serde_json::Value::from(text.as_str()));
            assert!(serde_json::from_str::<IgnoredAny>(&redact(&list).unwrap().text).is_ok(), "{text}");
        }
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
