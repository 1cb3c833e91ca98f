//! Files of an installed plugin that somebody changed: the same rules over the same documents, with
//! the bytes from disk.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::Path;

use km_package::envelope::Head;
use km_package::manifest::FileEntry;
use km_package::verify::{Context, Documents, Installed, Purpose, Rule, Untrusted, verify};

use crate::forge::{
    EXECUTABLE, Forge, Sealed, context, files_with, good_binary, noise, release_key, sign, time, trusted_keys,
};
use crate::verdict::Verdict;

/// A directory with the good plugin, and its documents.
struct Plugin {
    dir: tempfile::TempDir,
    head: Head,
}

impl Plugin {
    fn good() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in files_with(&good_binary()) {
            fs::write(dir.path().join(file.path.as_str()), &file.bytes).unwrap();
        }
        Self { dir, head: head_of(&Forge::good().seal()) }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn verdict(self) -> Verdict {
        let dir = self.dir.path().to_owned();
        self.verdict_with(&mut |entry| open(&dir, entry))
    }

    fn verdict_with(self, open: &mut dyn FnMut(&FileEntry) -> io::Result<File>) -> Verdict {
        let plugin = Untrusted::installed(self.head, Installed::new(open));
        Verdict::from(verify(plugin, &trusted_keys(), &run()).map(drop))
    }
}

fn head_of(sealed: &Sealed) -> Head {
    Head { manifest: sealed.manifest.clone(), signatures: sealed.signatures.clone() }
}

fn open(dir: &Path, entry: &FileEntry) -> io::Result<File> {
    File::open(dir.join(entry.path.as_str()))
}

fn run() -> Context<'static> {
    Context { purpose: Purpose::Run, ..context() }
}

#[test]
fn the_good_plugin_may_run_even_when_its_package_expired() {
    assert_eq!(Plugin::good().verdict(), Verdict::Accepted);
    let mut expired = Plugin::good();
    expired.head = head_of(&Forge::good().saying(|m| m.plugin.expires = Some(time(0))).seal());
    assert_eq!(expired.verdict(), Verdict::Accepted);
}

type Change = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn a_changed_file_is_refused() {
    let cases: [(&str, &str, Change); 7] = [
        ("first byte", EXECUTABLE, |b| changed(b, 0)),
        ("in the slot", EXECUTABLE, |b| changed(b, 600)),
        ("last byte", EXECUTABLE, |b| changed(b, 4907)),
        ("a byte more", EXECUTABLE, |b| [b, vec![0]].concat()),
        ("a byte less", EXECUTABLE, |b| b[..b.len() - 1].to_vec()),
        ("nothing left", EXECUTABLE, |_| Vec::new()),
        ("other file", "notes.txt", |b| changed(b, 3)),
    ];
    for (name, file, change) in cases {
        let plugin = Plugin::good();
        let path = plugin.file(file);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
        assert_eq!(plugin.verdict(), Verdict::Refused(Rule::Files), "{name}");
    }
}

fn changed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_missing_file_is_refused() {
    for file in [EXECUTABLE, "notes.txt"] {
        let plugin = Plugin::good();
        fs::remove_file(plugin.file(file)).unwrap();
        assert_eq!(plugin.verdict(), Verdict::Refused(Rule::Files), "{file}");
    }
}

/// A file that never ends, as a device or a sparse file does not: what is not declared is not read.
#[test]
fn a_file_is_not_read_far_beyond_its_declared_size() {
    let plugin = Plugin::good();
    let path = plugin.file(EXECUTABLE);
    let declared = good_binary().len() as u64;
    File::options().write(true).open(&path).unwrap().set_len(16 << 20).unwrap();
    let dir = plugin.dir.path().to_owned();
    // A clone shares the position with the file that is read.
    let mut opened = None;
    let verdict = plugin.verdict_with(&mut |entry| {
        let file = open(&dir, entry)?;
        opened.get_or_insert(file.try_clone()?);
        Ok(file)
    });
    assert_eq!(verdict, Verdict::Refused(Rule::Files));
    let read = opened.unwrap().stream_position().unwrap();
    assert!(read <= declared + 64 * 1024, "{read} bytes were read of a file of {declared}");
}

/// The identity is judged again at each start, not only when it was installed.
#[test]
fn a_plugin_whose_documents_were_swapped_is_refused() {
    let cases: [(&str, Rule, Sealed); 4] = [
        (
            "other tier",
            Rule::Identity,
            Forge::good().saying(|m| m.customer.tier = km_package::tier::Tier::Enterprise).seal(),
        ),
        (
            "other customer",
            Rule::Customer,
            Forge::good().saying(|m| m.customer.id = "acme".parse().unwrap()).seal(),
        ),
        ("other binary", Rule::Files, Forge::of_binary(&noise(5, 6000)).seal()),
        ("other text", Rule::Signature, {
            let other = sign(&release_key(), b"another text");
            Forge::good().seal().signed(vec![other])
        }),
    ];
    for (name, rule, sealed) in cases {
        let mut plugin = Plugin::good();
        plugin.head = head_of(&sealed);
        assert_eq!(plugin.verdict(), Verdict::Refused(rule), "{name}");
    }
}

/// Listing reads no file; the documents are judged all the same.
#[test]
fn documents_alone_are_judged_by_the_rules_about_them() {
    let verdict = |sealed: &Sealed| {
        let plugin = Untrusted::installed(head_of(sealed), Documents);
        Verdict::from(verify(plugin, &trusted_keys(), &run()).map(drop))
    };
    let good = Forge::good().seal();
    assert_eq!(verdict(&good), Verdict::Accepted);
    let mut changed = good.clone();
    changed.manifest[30] ^= 1;
    assert_eq!(verdict(&changed), Verdict::Refused(Rule::Signature));
    let elsewhere = Forge::good().saying(|m| m.target.platform = "linux-arm64".parse().unwrap()).seal();
    assert_eq!(verdict(&elsewhere), Verdict::Refused(Rule::Platform));
}
