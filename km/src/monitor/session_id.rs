//! What a session is called.

use std::fmt;

use jiff::Timestamp;

/// The name of a session: unique everywhere, and in the order of time. `20261123T061500Z-0f1e2d3c4b5a6978`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(String);

impl SessionId {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness it is still unique on this machine, as good as always.
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            random = (u64::from(std::process::id()) << 32).to_le_bytes();
        }
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        Self(format!("{now}-{:016x}", u64::from_le_bytes(random)))
    }

    /// One that was written down; none if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (time, random) = text.split_once('-')?;
        let is_time = time.len() == 16 && time.bytes().all(|b| b.is_ascii_digit() || b == b'T' || b == b'Z');
        let is_random = random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit());
        (is_time && is_random).then(|| Self(text.to_owned()))
    }

    /// When it began.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", &self.0[..16])
            .ok()?
            .to_datetime()
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
            .map(|time| time.timestamp())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
