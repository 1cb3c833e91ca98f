//! What is read of an MCP message: kind, method, id, and the members that relate it to others. One
//! pass over the line builds no tree; what is not wanted is checked to be JSON, and passed over.
//!
//! Both eras are read alike. Of members that are there twice the last one counts, as most readers of
//! JSON have it; a member that is `null` counts as none, but for `result` and `error`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::jsonrpc::Kind;

/// One message. Its values are as they are written, `7`, `"a"`: [`text`] reads strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<'a> {
    /// What kind of message it is.
    pub kind: Kind,
    /// The method of a request or notification, as text.
    pub method: Option<Cow<'a, str>>,
    /// The id.
    pub id: Option<&'a str>,
    /// What was wanted of `params`.
    pub params: Params<'a>,
    /// What was wanted of `result`.
    pub result: Answer<'a>,
}

/// Members of `params`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Params<'a> {
    /// `name`: of `tools/call`, the tool.
    pub name: Option<&'a str>,
    /// `progressToken`: of `notifications/progress`, what it is the progress of.
    pub progress_token: Option<&'a str>,
    /// `requestId`: of `notifications/cancelled`, what is cancelled.
    pub request_id: Option<&'a str>,
    /// `requestState`: of a request that goes on with one that was answered by `input_required`.
    pub request_state: Option<&'a str>,
    /// What was wanted of `_meta`.
    pub meta: Meta<'a>,
}

/// Members of `params._meta`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// `progressToken`: by what a request wants to hear of its progress.
    pub progress_token: Option<&'a str>,
    /// `io.modelcontextprotocol/subscriptionId`: the id of the `subscriptions/listen` that a
    /// notification belongs to.
    pub subscription_id: Option<&'a str>,
}

/// Members of `result`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    /// `isError`: the tool failed.
    pub is_error: Option<&'a str>,
    /// `resultType`.
    pub result_type: Option<&'a str>,
    /// `requestState`: what a request that goes on with this brings along.
    pub request_state: Option<&'a str>,
}

/// The text of a JSON string; none if it is something else. A string with half a surrogate pair is
/// no text, and stays as it is written.
pub fn text(written: &str) -> Option<Cow<'_, str>> {
    let bare = written.strip_prefix('"')?.strip_suffix('"')?;
    if !bare.contains('\\') {
        return Some(Cow::Borrowed(bare));
    }
    Some(serde_json::from_str(written).map_or(Cow::Borrowed(bare), Cow::Owned))
}

impl<'a> Reading<'a> {
    /// Reads a line, with or without its newline.
    pub fn of(line: &'a [u8]) -> Self {
        match std::str::from_utf8(line) {
            Ok(text) => Self::of_text(text, Extent::Whole),
            Err(_) => Self::bare(Kind::Invalid),
        }
    }

    /// Reads the beginning of a line, as far as it goes.
    pub fn of_beginning(line: &'a [u8]) -> Self {
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            // The cut went through a character.
            Err(e) if e.error_len().is_none() => {
                std::str::from_utf8(&line[..e.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Self::bare(Kind::Invalid),
        };
        // A number at the end may have been longer: `12` of `123`.
        let text = text.trim_end_matches(|c: char| c.is_ascii_digit() || "+-.eE".contains(c));
        Self::of_text(text, Extent::Beginning)
    }

    /// An error, or the result of a tool that failed.
    pub fn is_failure(&self) -> bool {
        self.kind == Kind::Error || self.result.is_error == Some("true")
    }

    /// A result that is none yet: the request is to come again, with what is asked for.
    pub fn asks_for_input(&self) -> bool {
        self.result.result_type.and_then(text).is_some_and(|result_type| result_type == "input_required")
    }

    fn bare(kind: Kind) -> Self {
        Self { kind, method: None, id: None, params: Params::default(), result: Answer::default() }
    }

    fn of_text(text: &'a str, extent: Extent) -> Self {
        let first = text.trim_ascii_start().bytes().next();
        let mut members = Members::default();
        let read = match first {
            Some(b'{') => members.read(text),
            _ => serde_json::from_str::<IgnoredAny>(text).map(drop),
        };
        let whole = read.is_ok();
        match (read, first) {
            (Err(e), _) if extent == Extent::Whole || !e.is_eof() => Self::bare(Kind::Invalid),
            (_, Some(b'{')) => members.into_reading(whole),
            (_, Some(b'[')) => Self::bare(Kind::Batch),
            _ => Self::bare(Kind::Other),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Beginning,
}

/// The members of one message, as far as they were read.
#[derive(Default)]
struct Members<'a> {
    method: Option<&'a str>,
    id: Option<&'a str>,
    params: Params<'a>,
    result: Option<Answer<'a>>,
    error: bool,
}

/// The objects whose members are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Message,
    Params,
    Meta,
    Result,
}

impl<'a> Members<'a> {
    fn read(&mut self, text: &'a str) -> serde_json::Result<()> {
        match self.read_into(text, Depth::All) {
            // It may be JSON all the same: half a surrogate pair or `1e999` in place of an object.
            Err(e) if !e.is_eof() => {
                *self = Self::default();
                self.read_into(text, Depth::Message)
            }
            read => read,
        }
    }

    fn read_into(&mut self, text: &'a str, depth: Depth) -> serde_json::Result<()> {
        let mut json = serde_json::Deserializer::from_str(text);
        Object { place: Place::Message, depth, members: self }.deserialize(&mut json)?;
        json.end()
    }

    fn slot(&mut self, place: Place, name: &str) -> Option<&mut Option<&'a str>> {
        let (params, result) = (&mut self.params, self.result.as_mut());
        Some(match (place, name) {
            (Place::Message, "method") => &mut self.method,
            (Place::Message, "id") => &mut self.id,
            (Place::Params, "name") => &mut params.name,
            (Place::Params, "progressToken") => &mut params.progress_token,
            (Place::Params, "requestId") => &mut params.request_id,
            (Place::Params, "requestState") => &mut params.request_state,
            (Place::Meta, "progressToken") => &mut params.meta.progress_token,
            (Place::Meta, "io.modelcontextprotocol/subscriptionId") => &mut params.meta.subscription_id,
            (Place::Result, "isError") => &mut result?.is_error,
            (Place::Result, "resultType") => &mut result?.result_type,
            (Place::Result, "requestState") => &mut result?.request_state,
            _ => return None,
        })
    }

    /// Notes that the member is there, and says whether its own members are read. Nothing is left of
    /// one of that name before it.
    fn enter(&mut self, place: Place, name: &str) -> Option<Place> {
        match (place, name) {
            (Place::Message, "params") => {
                self.params = Params::default();
                Some(Place::Params)
            }
            (Place::Params, "_meta") => {
                self.params.meta = Meta::default();
                Some(Place::Meta)
            }
            (Place::Message, "result") => {
                self.result = Some(Answer::default());
                Some(Place::Result)
            }
            (Place::Message, "error") => {
                self.error = true;
                None
            }
            _ => None,
        }
    }

    fn into_reading(self, whole: bool) -> Reading<'a> {
        let method = self.method.and_then(text);
        let kind = match (&method, self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) if whole => Kind::Notification,
            // Its id may be in what is missing.
            (Some(_), None) => Kind::Other,
            (None, _) if self.result.is_some() => Kind::Result,
            (None, _) if self.error => Kind::Error,
            (None, _) => Kind::Other,
        };
        Reading { kind, method, id: self.id, params: self.params, result: self.result.unwrap_or_default() }
    }
}

/// How deep members are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    All,
    /// Only those of the message itself.
    Message,
}

/// Reads the members of one object; any other value is passed over.
struct Object<'m, 'a> {
    place: Place,
    depth: Depth,
    members: &'m mut Members<'a>,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, seq: A) -> Result<(), A::Error> {
        IgnoredAny.visit_seq(seq).map(drop)
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { place, depth, members } = self;
        // Names as they are written: one that is no text must not end the reading.
        while let Some(name) = map.next_key::<&RawValue>()? {
            let name = text(name.get()).unwrap_or_default();
            if let Some(slot) = members.slot(place, &name) {
                let value = map.next_value::<&RawValue>()?.get();
                *slot = Some(value).filter(|value| *value != "null");
                continue;
            }
            match members.enter(place, &name) {
                Some(place) if depth == Depth::All => {
                    map.next_value_seed(Object { place, depth, members: &mut *members })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(line: &str) -> Reading<'_> {
        Reading::of(line.as_bytes())
    }

    #[test]
    fn what_relates_a_message_to_others_is_read() {
        let call = read(
            r#"{"method":"tools/call","params":{"name":"ask","arguments":{"name":"not this","requestState":0},"requestState":"v1","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":7}},"jsonrpc":"2.0","id":7}"#,
        );
        assert_eq!((call.kind, call.id), (Kind::Request, Some("7")));
        let Params { name, request_state, meta, .. } = call.params;
        assert_eq!((name, request_state, meta.progress_token), (Some("\"ask\""), Some("\"v1\""), Some("7")));

        let progress = read(
            r#"{"method":"notifications/progress","params":{"progressToken":"p","progress":1,"_meta":{"io.modelcontextprotocol/subscriptionId":3}}}"#,
        );
        assert_eq!((progress.kind, progress.params.progress_token), (Kind::Notification, Some("\"p\"")));
        assert_eq!(progress.params.meta.subscription_id, Some("3"));
        let cancelled =
            read(r#"{"method":"notifications/cancelled","params":{"requestId":5,"reason":"enough"}}"#);
        assert_eq!(cancelled.params.request_id, Some("5"));

        let asked = read(r#"{"id":6,"result":{"resultType":"input_required","requestState":"v1"}}"#);
        assert_eq!((asked.asks_for_input(), asked.result.request_state), (true, Some("\"v1\"")));
        let failed = read(r#"{"id":6,"result":{"content":[{"isError":false}],"isError":true}}"#);
        assert_eq!((failed.kind, failed.is_failure()), (Kind::Result, true));
        assert!(read(r#"{"id":6,"error":{"code":-32601}}"#).is_failure());
        assert!(!read(r#"{"id":6,"result":{"error":1,"isError":"true"}}"#).is_failure());
    }

    #[test]
    fn texts_are_unescaped_and_ids_are_not() {
        let escaped = r#"{"m\u0065thod":"tools\/c\u0061ll","id":"\u0061"}"#;
        assert_eq!(
            (read(escaped).method.as_deref(), read(escaped).id),
            (Some("tools/call"), Some(r#""\u0061""#))
        );
        let half = r#"{"method":"a\ud800","id":"\ud800","\udfff":"\ud800"}"#;
        assert_eq!((read(half).kind, read(half).method.as_deref()), (Kind::Request, Some(r"a\ud800")));
        assert_eq!(text("7"), None);
    }

    #[test]
    fn of_members_that_are_there_twice_the_last_counts() {
        let twice = read(
            r#"{"id":1,"id":2,"method":"a","method":"b","params":{"name":"x"},"params":{"_meta":{"progressToken":1},"_meta":{}}}"#,
        );
        assert_eq!((twice.id, twice.method.as_deref()), (Some("2"), Some("b")));
        assert_eq!(twice.params, Params::default());
        assert_eq!(read(r#"{"result":{"isError":true},"result":null,"id":1}"#).result, Answer::default());
        assert_eq!(read(r#"{"method":"a","id":1,"id":null}"#).kind, Kind::Notification);
    }

    #[test]
    fn values_need_not_be_what_mcp_wants() {
        for (line, kind) in [
            (r#"{"method":"a","id":1,"params":[1,2]}"#, Kind::Request),
            (r#"{"method":"a","params":1e999}"#, Kind::Notification),
            (r#"{"id":1,"result":"\ud800"}"#, Kind::Result),
            (r#"{"id":1,"result":null}"#, Kind::Result),
            (r#"{"id":1,"error":null}"#, Kind::Error),
            (r#"{"method":["a"],"id":1}"#, Kind::Other),
            (r#"{"method":"a","params":{"_meta":"x","name":{}},"id":{"a":[]}}"#, Kind::Request),
            ("\u{feff}{}", Kind::Invalid),
            ("{}{}", Kind::Invalid),
            ("{\"a\u{0}\":1}", Kind::Invalid),
            ("{\"a\":\"\u{0}\"}", Kind::Invalid),
            (r#"{"a":"\u00"}"#, Kind::Invalid),
            (r#"{"a":01}"#, Kind::Invalid),
            (r#"{"params":7,"a"}"#, Kind::Invalid),
            ("\u{c}{}", Kind::Invalid),
            (" \r", Kind::Invalid),
        ] {
            assert_eq!(read(line).kind, kind, "{line}");
        }
    }

    #[test]
    fn depth_takes_no_stack() {
        for (open, close) in [("[", "]"), (r#"{"params":"#, "}"), (r#"{"_meta":"#, "}")] {
            let deep = format!("{}0{}", open.repeat(10_000), close.repeat(10_000));
            let line = format!(r#"{{"method":"a","params":{deep},"id":1}}"#);
            assert_eq!((read(&line).kind, read(&line).id), (Kind::Request, Some("1")));
            assert_ne!(read(&deep).kind, Kind::Invalid);
            assert_eq!(read(&deep[1..]).kind, Kind::Invalid);
        }
    }

    /// Wherever a message is cut, what was seen is what the whole has, and nothing is made up.
    #[test]
    fn the_beginning_of_a_message_says_what_it_can() {
        for line in [
            r#"{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{"name":"\u00e9é","_meta":{"progressToken":45}}}"#,
            r#"{"result":{"resultType":"complete","x":[1.5e-3,-7,true,false,null,"\ud83d\ude00"]},"id":"ab"}"#,
            r#"{"method":"notifications/cancelled","params":{"requestId":123}}"#,
            r#"[{"id":1,"method":"a"}]"#,
            r#" "text" "#,
        ] {
            let whole = read(line);
            for end in 1..line.len() {
                let cut = Reading::of_beginning(&line.as_bytes()[..end]);
                if line[..end.min(1)].trim().is_empty() {
                    continue;
                }
                assert!(
                    cut.kind == whole.kind || cut.kind == Kind::Other,
                    "{}: {cut:?}",
                    &line.as_bytes()[..end].escape_ascii()
                );
                assert!(cut.method.is_none() || cut.method == whole.method);
                for (cut, whole) in [
                    (cut.id, whole.id),
                    (cut.params.request_id, whole.params.request_id),
                    (cut.params.meta.progress_token, whole.params.meta.progress_token),
                    (cut.params.name, whole.params.name),
                    (cut.result.result_type, whole.result.result_type),
                ] {
                    assert!(cut.is_none() || cut == whole);
                }
            }
        }
        assert_eq!(Reading::of_beginning(b"{\"a\":\xff").kind, Kind::Invalid);
        assert_eq!(Reading::of_beginning(b"{\"a\"}").kind, Kind::Invalid);
        let method_only = Reading::of_beginning(br#"{"method":"tools/call","params":{"#);
        assert_eq!((method_only.kind, method_only.method.as_deref()), (Kind::Other, Some("tools/call")));
    }

    /// Messages at random, some of them spoiled, are read as a tree would be.
    #[test]
    fn reading_says_what_a_tree_says() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut spoiled = 0;
        for _ in 0..20_000 {
            let mut line = Vec::new();
            random.message(&mut line);
            if random.below(2) == 0 {
                random.spoil(&mut line);
            }
            let reading = Reading::of(&line);
            let Ok(valid) = std::str::from_utf8(&line) else {
                assert_eq!(reading.kind, Kind::Invalid);
                continue;
            };
            let is_json = serde_json::from_str::<IgnoredAny>(valid).is_ok();
            assert_eq!(reading.kind != Kind::Invalid, is_json, "{valid}");
            spoiled += usize::from(!is_json);
            // A tree holds no half surrogates and no numbers past its own.
            if let Ok(tree) = serde_json::from_str::<Value>(valid) {
                assert_alike(&reading, &tree, valid);
            }
        }
        assert!((1_000..19_000).contains(&spoiled), "{spoiled}");
    }

    fn assert_alike(reading: &Reading<'_>, tree: &Value, line: &str) {
        let member = |path: &str| tree.pointer(path).filter(|value| !value.is_null()).cloned();
        let value =
            |written: Option<&str>| written.map(|written| serde_json::from_str::<Value>(written).unwrap());
        let method = member("/method").and_then(|method| method.as_str().map(str::to_owned));
        let kind = match tree {
            Value::Array(_) => Kind::Batch,
            Value::Object(_) if method.is_some() && member("/id").is_some() => Kind::Request,
            Value::Object(_) if method.is_some() => Kind::Notification,
            Value::Object(all) if all.contains_key("result") => Kind::Result,
            Value::Object(all) if all.contains_key("error") => Kind::Error,
            _ => Kind::Other,
        };
        assert_eq!((reading.kind, reading.method.as_deref()), (kind, method.as_deref()), "{line}");
        if !tree.is_object() {
            return;
        }
        assert_eq!(value(reading.id), member("/id"), "{line}");
        // A value that is no object where MCP has one is enough to leave the inner members unread.
        let odd = ["/params", "/params/_meta", "/result"]
            .iter()
            .any(|path| tree.pointer(path).is_some_and(|value| !value.is_object()));
        if !odd && reading.params != Params::default() {
            assert_eq!(value(reading.params.name), member("/params/name"), "{line}");
            assert_eq!(
                value(reading.params.meta.progress_token),
                member("/params/_meta/progressToken"),
                "{line}"
            );
        }
    }

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, bound: u64) -> u64 {
            (self.next() >> 33) % bound
        }

        fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
            of[self.below(of.len() as u64) as usize]
        }

        fn message(&mut self, line: &mut Vec<u8>) {
            match self.below(20) {
                0 => self.value(line, 3),
                _ => self.object(line, 4),
            }
        }

        fn object(&mut self, line: &mut Vec<u8>, depth: u64) {
            const NAMES: [&str; 12] = [
                "method",
                "id",
                "params",
                "result",
                "error",
                "_meta",
                "name",
                "progressToken",
                "requestState",
                "m\\u0065thod",
                "x\\\"y",
                "\\ud800",
            ];
            line.push(b'{');
            for n in 0..self.below(6) {
                if n > 0 {
                    line.extend(self.one(&[",", " ,\t"]).bytes());
                }
                let name = self.one(&NAMES);
                line.extend(format!("\"{name}\"{}", self.one(&[":", " : "])).bytes());
                match name {
                    "params" | "_meta" | "result" if depth > 0 && self.below(8) > 0 => {
                        self.object(line, depth - 1)
                    }
                    "method" | "id" if self.below(4) > 0 => {
                        line.extend(self.one(&["\"a\"", "7", "\"\\u00e9\\/\"", "12345678901"]).bytes());
                    }
                    _ => self.value(line, depth),
                }
            }
            line.push(b'}');
        }

        fn value(&mut self, line: &mut Vec<u8>, depth: u64) {
            match self.below(if depth == 0 { 6 } else { 8 }) {
                0..4 => line.extend(
                    self.one(&[
                        "0",
                        "-1.5e3",
                        "1e999",
                        "true",
                        "false",
                        "null",
                        "\"\"",
                        "\"é\"",
                        "\"\\ud83d\\ude00\"",
                        "\"\\udead\"",
                    ])
                    .bytes(),
                ),
                4 | 5 => line.extend(self.one(&["[]", "{}", "[ ]", "\"a\\nb\""]).bytes()),
                6 => self.object(line, depth - 1),
                _ => {
                    line.push(b'[');
                    for n in 0..self.below(4) {
                        if n > 0 {
                            line.push(b',');
                        }
                        self.value(line, depth - 1);
                    }
                    line.push(b']');
                }
            }
        }

        fn spoil(&mut self, line: &mut Vec<u8>) {
            let at = self.below(line.len() as u64) as usize;
            let byte = b"\"\\{}[],:0u\x00\xff\xc3 "[self.below(14) as usize];
            match self.below(4) {
                0 => line.truncate(at),
                1 => line.insert(at, byte),
                2 => line[at] = byte,
                _ => drop(line.remove(at)),
            }
        }
    }
}
