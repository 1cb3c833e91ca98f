//! The manifest: the signed TOML text that says what a package is, for whom, and what is in it.
//!
//! Sections that gate a decision (`customer`, `target`, `identity`, `payload`, `files`) refuse keys
//! they do not know; the others ignore them, so that later versions can say more.

mod text;

pub(crate) use text::quote;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::archive;
use crate::digest::Digest;
use crate::identity::SLOT_LEN;
use crate::name::{CustomerId, FileName, PluginName};
use crate::platform::Platform;
use crate::tier::Tier;

/// First line of every manifest of this format: the domain tag of its signatures.
pub const TAG: &str = "format = \"kmpkg/1\"\n";
/// Most compressed bytes that a package may declare.
pub const MAX_PAYLOAD: u64 = 1 << 30;
/// Most bytes of tar that a package may declare.
pub const MAX_TAR: u64 = 1 << 30;
/// Most files in a package.
pub const MAX_FILES: usize = 64;
/// Most zstd frames in a package.
pub const MAX_FRAMES: usize = 16;

/// Most brackets and dots in a manifest's text: what can nest.
const MAX_MARKS: usize = 2048;

/// A parsed manifest. It says nothing about who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    /// What the plugin is.
    pub plugin: Plugin,
    /// For whom this package was made.
    pub customer: Customer,
    /// Where it runs.
    pub target: Target,
    /// How it speaks with `km`.
    pub protocol: Protocol,
    /// How it was made.
    pub build: Build,
    /// Where the identity slot lies; absent for a binary without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Slot>,
    /// What the plugin's process may reach.
    #[serde(default)]
    pub permissions: Permissions,
    /// The compressed archive.
    pub payload: Payload,
    /// The files in it, in the archive's order.
    pub files: Vec<FileEntry>,
}

/// `[plugin]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name.
    pub name: PluginName,
    /// Its version (semver), for people.
    pub version: semver::Version,
    /// What rollback is judged by: only grows from release to release.
    pub sequence: u64,
    /// One line of text.
    #[serde(default)]
    pub description: String,
    /// The tier that a customer needs to run it.
    pub required_tier: Tier,
    /// When the package stops being installable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// `[customer]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// The customer.
    pub id: CustomerId,
    /// The tier stamped for that customer.
    pub tier: Tier,
    /// [`crate::identity::api_key_digest`] of the key given to the build; informational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_sha256: Option<Digest>,
}

/// `[target]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// As the API names it.
    pub platform: Platform,
    /// As the compiler names it.
    pub triple: String,
}

/// `[protocol]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Protocol versions that the plugin speaks.
    pub versions: Vec<u32>,
}

/// `[build]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `SOURCE_DATE_EPOCH`, or the time of the source's last commit.
    pub created: Time,
    /// Digest over the plugin's own source files; absent for a binary built elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sha256: Option<Digest>,
    /// The executable with its identity slot zeroed: one for all customers.
    pub base_sha256: Digest,
    /// The compiler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toolchain: Option<String>,
}

/// `[identity]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Where the slot begins in the executable, in bytes.
    pub offset: u64,
    /// Its length: 4096.
    pub size: u64,
}

/// `[permissions]`: nothing unless named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// `@api`, or `host:port`.
    #[serde(default)]
    pub network: Vec<String>,
    /// Paths that may be read.
    #[serde(default)]
    pub read: Vec<String>,
    /// Paths that may be written.
    #[serde(default)]
    pub write: Vec<String>,
}

/// `[payload]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Compressed bytes, all frames together.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// Digest of the tar.
    pub tar_sha256: Digest,
    /// The zstd frames, in order.
    pub frames: Vec<Frame>,
}

/// One zstd frame of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Compressed bytes.
    pub size: u64,
    /// Digest of the compressed bytes.
    pub sha256: Digest,
}

/// One of `[[files]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its flat name.
    pub path: FileName,
    /// Its length in bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub sha256: Digest,
    /// Mode 0755 instead of 0644.
    #[serde(default)]
    pub executable: bool,
}

/// A point in time in whole Unix seconds; RFC 3339 as text, a datetime in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// Latest second that a tar header can hold (eleven octal digits).
    const MAX: u64 = (1 << 33) - 1;

    /// From Unix seconds, up to the year 2242 (what a tar header can hold).
    pub fn from_unix(seconds: u64) -> Option<Self> {
        (seconds <= Self::MAX).then_some(Self(seconds))
    }

    /// In Unix seconds.
    pub fn unix(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_second(seconds) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{seconds}"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = toml::value::Datetime::deserialize(deserializer)?.to_string();
        let time: jiff::Timestamp =
            text.parse().map_err(|_| D::Error::custom(format!("{text} is no time with an offset")))?;
        u64::try_from(time.as_second())
            .ok()
            .filter(|_| time.subsec_nanosecond() == 0)
            .and_then(Self::from_unix)
            .ok_or_else(|| D::Error::custom(format!("{text} is not a whole second from 1970 to 2242")))
    }
}

/// Why a text is not a manifest of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

impl Manifest {
    /// A manifest of format 1, from its sections.
    #[expect(clippy::too_many_arguments, reason = "one for each section of the document")]
    pub fn new(
        plugin: Plugin,
        customer: Customer,
        target: Target,
        protocol: Protocol,
        build: Build,
        identity: Option<Slot>,
        permissions: Permissions,
        payload: Payload,
        files: Vec<FileEntry>,
    ) -> Self {
        let format = "kmpkg/1".to_owned();
        Self { format, plugin, customer, target, protocol, build, identity, permissions, payload, files }
    }

    /// Parses the text after its [tag](TAG) was seen, and checks that it agrees with itself.
    ///
    /// # Errors
    /// For unknown keys in a section that gates, names that are none, sizes over the limits or
    /// that do not add up.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let text = std::str::from_utf8(text).map_err(|e| ManifestError(format!("not UTF-8: {e}")))?;
        // Each of these can add a level of nesting, and the parser's own limits multiply to more
        // levels than a thread's stack has room for.
        let marks = text.bytes().filter(|b| b"[{.".contains(b)).count();
        if marks > MAX_MARKS {
            return Err(ManifestError(format!("{marks} brackets and dots; at most {MAX_MARKS} may be")));
        }
        let manifest: Self = toml::from_str(text).map_err(|e| ManifestError(one_line(&e)))?;
        match manifest.contradiction() {
            None => Ok(manifest),
            Some(what) => Err(ManifestError(what)),
        }
    }

    /// The executable among the files.
    pub fn executable(&self) -> &FileEntry {
        let name = self.plugin.name.executable();
        self.files.iter().find(|file| file.path == name).expect("parse() found it")
    }

    /// What in this manifest cannot be, if anything.
    fn contradiction(&self) -> Option<String> {
        let payload = &self.payload;
        let executable = self.plugin.name.executable();
        let frames: Option<u64> =
            payload.frames.iter().try_fold(0u64, |sum, frame| sum.checked_add(frame.size));
        let executable_size =
            self.files.iter().find(|f| f.path == executable && f.executable).map(|f| f.size);
        let slot_fits = |slot: Slot| {
            slot.size == SLOT_LEN as u64
                && slot.offset.checked_add(slot.size).is_some_and(|end| Some(end) <= executable_size)
        };
        let checks: [(bool, String); 10] = [
            (
                self.plugin.version.to_string().len() <= 64,
                "the version is longer than 64 characters".to_owned(),
            ),
            (
                (1..=MAX_FILES).contains(&self.files.len()),
                format!("{} files; 1 to {MAX_FILES} may be", self.files.len()),
            ),
            (
                self.files.is_sorted_by(|a, b| a.path < b.path),
                "files are not in strictly ascending order".to_owned(),
            ),
            (executable_size.is_some(), format!("no executable file {executable} among the files")),
            (
                (1..=MAX_FRAMES).contains(&payload.frames.len()) && payload.frames.iter().all(|f| f.size > 0),
                format!("{} frames; 1 to {MAX_FRAMES} may be, none of them empty", payload.frames.len()),
            ),
            (frames == Some(payload.size), "payload.size is not the sum of the frames".to_owned()),
            (payload.size <= MAX_PAYLOAD, format!("payload.size {} is over {MAX_PAYLOAD}", payload.size)),
            (
                payload.tar_size <= MAX_TAR && archive::tar_size(&self.files) == Some(payload.tar_size),
                format!(
                    "payload.tar_size {} is not what the files make, or over {MAX_TAR}",
                    payload.tar_size
                ),
            ),
            (
                self.identity.is_none_or(slot_fits),
                "the identity slot does not lie in the executable".to_owned(),
            ),
            (!self.protocol.versions.is_empty(), "no protocol version".to_owned()),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what)
    }
}

fn one_line(error: &toml::de::Error) -> String {
    error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = FileEntry {
            path: "km-plugin-a".parse().unwrap(),
            size: 8192,
            sha256: Digest::of(b"file"),
            executable: true,
        };
        Manifest::new(
            Plugin {
                name: "a".parse().unwrap(),
                version: "1.2.3-rc.1".parse().unwrap(),
                sequence: 7,
                description: "with \"quotes\"\nand lines".to_owned(),
                required_tier: Tier::Pro,
                expires: Time::from_unix(1_800_000_000),
            },
            Customer {
                id: "customer_123".parse().unwrap(),
                tier: Tier::Enterprise,
                api_key_sha256: Some(Digest::of(b"key")),
            },
            Target {
                platform: "linux-amd64".parse().unwrap(),
                triple: "x86_64-unknown-linux-gnu".to_owned(),
            },
            Protocol { versions: vec![1, 2] },
            Build {
                created: Time::from_unix(1_795_305_600).unwrap(),
                source_sha256: Some(Digest::of(b"source")),
                base_sha256: Digest::of(b"base"),
                toolchain: Some("rustc 1.95.0".to_owned()),
            },
            Some(Slot { offset: 4096, size: 4096 }),
            Permissions { network: vec!["@api".to_owned()], ..Permissions::default() },
            Payload {
                size: 30,
                tar_size: archive::tar_size(std::slice::from_ref(&file)).unwrap(),
                tar_sha256: Digest::of(b"tar"),
                frames: vec![
                    Frame { size: 10, sha256: Digest::of(b"a") },
                    Frame { size: 20, sha256: Digest::of(b"b") },
                ],
            },
            vec![file],
        )
    }

    #[test]
    fn what_is_written_is_read_again() {
        let manifest = manifest();
        let text = manifest.to_text();
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest), "{text}");
        assert!(text.contains("created = 2026-11-22T00:00:00Z\n"), "{text}");
    }

    #[test]
    fn sections_that_gate_refuse_unknown_keys_and_the_others_ignore_them() {
        let text = manifest().to_text();
        for gate in ["[customer]", "[target]", "[payload]", "[[files]]", "[identity]"] {
            let changed = text.replace(gate, &format!("{gate}\nsurprise = 1"));
            assert!(Manifest::parse(changed.as_bytes()).is_err(), "{gate}");
        }
        let frame = text.replacen("{ size", "{ surprise = 1, size", 1);
        assert!(Manifest::parse(frame.as_bytes()).is_err());
        for open in ["[plugin]", "[protocol]", "[build]", "[permissions]"] {
            let changed = text.replace(open, &format!("{open}\nsurprise = 1"));
            assert!(Manifest::parse(changed.as_bytes()).is_ok(), "{open}");
        }
    }

    #[test]
    fn what_does_not_add_up_is_no_manifest() {
        let text = manifest().to_text();
        for (from, to) in [
            ("name = \"a\"", "name = \"../a\""),
            ("version = \"1.2.3-rc.1\"", "version = \"1\""),
            ("version = \"1.2.3-rc.1\"", "version = \"../../x\""),
            ("\nsize = 30\n", "\nsize = 31\n"),
            ("\nsize = 30\n", "\nsize = -30\n"),
            ("size = 10", "size = 0"),
            ("size = 10", "size = 9223372036854775807"),
            ("tar_size = ", "tar_size = 1"),
            ("executable = true", "executable = false"),
            ("path = \"km-plugin-a\"", "path = \"km-plugin-b\""),
            ("path = \"km-plugin-a\"", "path = \"../km-plugin-a\""),
            ("offset = 4096", "offset = 4097"),
            ("offset = 4096", "offset = 9223372036854775807"),
            ("size = 4096\n", "size = 4095\n"),
            ("versions = [1, 2]", "versions = []"),
            ("tier = \"Enterprise\"", "tier = \"enterprise\""),
            ("created = 2026-11-22T00:00:00Z", "created = 2026-11-22T00:00:00.5Z"),
            ("created = 2026-11-22T00:00:00Z", "created = 2026-11-22"),
            ("created = 2026-11-22T00:00:00Z", "created = 1969-11-22T00:00:00Z"),
        ] {
            assert!(text.contains(from), "{from}");
            let changed = text.replacen(from, to, 1);
            assert!(Manifest::parse(changed.as_bytes()).is_err(), "{to}");
        }
        let twice = format!("{text}{}", &text[text.find("\n[[files]]").unwrap()..]);
        assert!(Manifest::parse(twice.as_bytes()).is_err());
    }
}
