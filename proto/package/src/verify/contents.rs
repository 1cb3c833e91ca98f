//! Where the files of a package are, and rules V12 to V17 over them.

use std::fs::File;
use std::io::{self, Read};

use super::file::FileCheck;
use super::{PackageError, Rule};
use crate::archive::{ArchiveError, Entry, Event, FrameError, FrameReader, StrictReader};
use crate::digest::Hasher;
use crate::key::TrustedKeys;
use crate::manifest::{FileEntry, Frame, Manifest};

/// Contents that can be held against a manifest. What they become decides what can be done next.
pub trait Contents {
    /// What is left when they hold.
    type Checked;

    /// Judges the rules about contents.
    ///
    /// # Errors
    /// The first rule that refuses, or trouble with reading or writing.
    fn check(self, manifest: &Manifest, keys: &TrustedKeys) -> Result<Self::Checked, PackageError>;
}

/// Takes the files as they come out of a package, before all rules have been judged: whoever
/// implements it must not show anything until [`verify`](super::verify) has returned.
pub trait Sink {
    /// A file begins.
    ///
    /// # Errors
    /// Trouble with the place it goes to.
    fn begin(&mut self, file: &FileEntry) -> io::Result<()>;

    /// The next piece of it.
    ///
    /// # Errors
    /// Trouble with the place it goes to.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// It is complete.
    ///
    /// # Errors
    /// Trouble with the place it goes to.
    fn end(&mut self) -> io::Result<()>;
}

/// Keeps nothing: for verifying without installing.
#[derive(Debug, Default)]
pub struct Discard;

impl Sink for Discard {
    fn begin(&mut self, _: &FileEntry) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No files: only what the documents of an installed plugin say is judged. For listing.
#[derive(Debug)]
pub struct Documents;

impl Contents for Documents {
    type Checked = ();

    fn check(self, _: &Manifest, _: &TrustedKeys) -> Result<(), PackageError> {
        Ok(())
    }
}

/// The files of an installed plugin, to be opened by name. What remains is the open executable
/// whose bytes were digested: exactly that file is to be run.
pub struct Installed<'a> {
    open: &'a mut dyn FnMut(&FileEntry) -> io::Result<File>,
}

impl std::fmt::Debug for Installed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Installed")
    }
}

impl<'a> Installed<'a> {
    /// The files that `open` opens.
    pub fn new(open: &'a mut dyn FnMut(&FileEntry) -> io::Result<File>) -> Self {
        Self { open }
    }
}

impl Contents for Installed<'_> {
    type Checked = File;

    fn check(self, manifest: &Manifest, keys: &TrustedKeys) -> Result<File, PackageError> {
        let name = manifest.plugin.name.executable();
        let mut executable = None;
        for entry in &manifest.files {
            let missing = |e| Rule::Files.refuses(format_args!("{} cannot be opened: {e}", entry.path));
            let mut file = (self.open)(entry).map_err(missing)?;
            let mut check = FileCheck::new(manifest, entry);
            read_pieces(&mut (&mut file).take(entry.size.saturating_add(1)), &mut |piece| {
                check.update(piece);
                Ok(())
            })?;
            check.finish(keys)?;
            if entry.path == name {
                executable = Some(file);
            }
        }
        executable.ok_or_else(|| Rule::Files.refuses(format_args!("no {name} among the files")))
    }
}

/// The payload of a package as a stream, extracted into a sink in one pass.
#[derive(Debug)]
pub struct Extract<R, K> {
    payload: R,
    sink: K,
}

impl<R: Read, K: Sink> Extract<R, K> {
    pub(super) fn new(payload: R, sink: K) -> Self {
        Self { payload, sink }
    }
}

impl<R: Read, K: Sink> Contents for Extract<R, K> {
    type Checked = K;

    fn check(mut self, manifest: &Manifest, keys: &TrustedKeys) -> Result<K, PackageError> {
        let mut tar = TarCheck::new(manifest, keys, &mut self.sink);
        for (index, frame) in manifest.payload.frames.iter().enumerate() {
            check_frame(&mut self.payload, index + 1, frame, &mut |bytes| tar.push(bytes))?;
        }
        tar.finish()?;
        // V17: the file ends here.
        read_pieces(&mut (&mut self.payload).take(1), &mut |_| {
            Err(Rule::End.refuses("something follows the last frame that the manifest declares"))
        })?;
        Ok(self.sink)
    }
}

/// Reads one frame of exactly its declared size, digests it and hands on what it decompresses to.
fn check_frame(
    payload: &mut impl Read,
    number: usize,
    frame: &Frame,
    on_output: &mut dyn FnMut(&[u8]) -> Result<(), PackageError>,
) -> Result<(), PackageError> {
    let mut reader = FrameReader::new().map_err(PackageError::Write)?;
    let (mut hasher, mut seen) = (Hasher::default(), 0);
    let mut refusal = None;
    read_pieces(&mut payload.take(frame.size), &mut |piece| {
        hasher.update(piece);
        seen += piece.len() as u64;
        if refusal.is_none() {
            match reader.push(piece, on_output) {
                Err(error @ PackageError::Refused { .. }) => refusal = Some(error),
                other => other?,
            }
        }
        Ok(())
    })?;
    // V12: compressed size and digest. The decompressor may have refused damaged bytes before.
    if seen != frame.size {
        return Err(Rule::Payload
            .refuses(format_args!("the file ends in frame {number}, after {seen} of {} bytes", frame.size)));
    }
    let found = hasher.finish();
    if found != frame.sha256 {
        return Err(Rule::Payload.refuses(format_args!(
            "frame {number} has the digest {found}, the manifest says {}",
            frame.sha256
        )));
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    reader.finish().map_err(PackageError::from)
}

impl From<FrameError> for PackageError {
    fn from(error: FrameError) -> Self {
        // V12 for what is no frame at all, V13 for what does not decompress as declared.
        match error {
            FrameError::Magic | FrameError::Empty => Rule::Payload.refuses(error),
            FrameError::Damaged(_) | FrameError::Longer | FrameError::Shorter => {
                Rule::Decompression.refuses(error)
            }
        }
    }
}

impl From<ArchiveError> for PackageError {
    fn from(error: ArchiveError) -> Self {
        Rule::Archive.refuses(error)
    }
}

/// The decompressed stream held against the manifest: its size and digest, the strict archive,
/// each file.
struct TarCheck<'m, K> {
    manifest: &'m Manifest,
    reader: StrictReader,
    hasher: Hasher,
    seen: u64,
    files: FilesCheck<'m, K>,
}

impl<'m, K: Sink> TarCheck<'m, K> {
    fn new(manifest: &'m Manifest, keys: &'m TrustedKeys, sink: &'m mut K) -> Self {
        let files = FilesCheck { manifest, keys, sink, expected: manifest.files.iter(), current: None };
        Self { manifest, reader: StrictReader::default(), hasher: Hasher::default(), seen: 0, files }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        // V13: never more than declared.
        self.seen += bytes.len() as u64;
        let declared = self.manifest.payload.tar_size;
        if self.seen > declared {
            return Err(Rule::Decompression
                .refuses(format_args!("the frames decompress to more than the declared {declared} bytes")));
        }
        self.hasher.update(bytes);
        // V14: the strict archive.
        let files = &mut self.files;
        self.reader.push(bytes, &mut |event| files.take(event))
    }

    fn finish(self) -> Result<(), PackageError> {
        let payload = &self.manifest.payload;
        if self.seen != payload.tar_size {
            return Err(Rule::Decompression.refuses(format_args!(
                "the frames decompress to {} bytes, the manifest says {}",
                self.seen, payload.tar_size
            )));
        }
        self.reader.finish()?;
        let found = self.hasher.finish();
        if found != payload.tar_sha256 {
            return Err(Rule::Archive.refuses(format_args!(
                "the archive has the digest {found}, the manifest says {}",
                payload.tar_sha256
            )));
        }
        match self.files.expected.as_slice() {
            [] => Ok(()),
            [missing, ..] => Err(Rule::Files.refuses(format_args!("{} is not in the archive", missing.path))),
        }
    }
}

/// The files of the archive, in the manifest's order.
struct FilesCheck<'m, K> {
    manifest: &'m Manifest,
    keys: &'m TrustedKeys,
    sink: &'m mut K,
    expected: std::slice::Iter<'m, FileEntry>,
    current: Option<FileCheck<'m>>,
}

impl<K: Sink> FilesCheck<'_, K> {
    fn take(&mut self, event: Event<'_>) -> Result<(), PackageError> {
        match event {
            Event::Begin(found) => {
                let entry = self.expected.next().filter(|e| e.path == found.path).ok_or_else(|| {
                    Rule::Files
                        .refuses(format_args!("{} is not the file that the manifest lists here", found.path))
                })?;
                self.check_header(entry, &found)?;
                self.current = Some(FileCheck::new(self.manifest, entry));
                self.sink.begin(entry).map_err(PackageError::Write)
            }
            Event::Data(bytes) => {
                if let Some(check) = &mut self.current {
                    check.update(bytes);
                }
                self.sink.write(bytes).map_err(PackageError::Write)
            }
            Event::End => {
                if let Some(check) = self.current.take() {
                    check.finish(self.keys)?;
                }
                self.sink.end().map_err(PackageError::Write)
            }
        }
    }

    fn check_header(&self, entry: &FileEntry, found: &Entry) -> Result<(), PackageError> {
        let FileEntry { path, size, executable, .. } = entry;
        // V15, before its bytes are taken.
        if found.size != *size || found.executable != *executable {
            return Err(Rule::Files.refuses(format_args!(
                "{path} has another size or mode in the archive than in the manifest"
            )));
        }
        // V14: one time for the whole archive.
        let created = self.manifest.build.created;
        if found.mtime != created.unix() {
            return Err(Rule::Archive.refuses(format_args!(
                "{path} has the time {}, the build {}",
                found.mtime,
                created.unix()
            )));
        }
        Ok(())
    }
}

fn read_pieces(
    from: &mut impl Read,
    on_piece: &mut dyn FnMut(&[u8]) -> Result<(), PackageError>,
) -> Result<(), PackageError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => on_piece(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(PackageError::Read(e)),
        }
    }
}
