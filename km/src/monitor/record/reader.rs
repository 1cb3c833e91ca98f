//! A recording, read line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use km_package::failure::{Failure, Kind};

use super::format::{Entry, read_entry, read_header};

/// Most bytes of one line: what `km` writes is far shorter.
const LONGEST_LINE: u64 = 48 << 20;

/// Reads a recording from its beginning.
pub(in crate::monitor) struct Reader {
    path: PathBuf,
    lines: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    line: Vec<u8>,
    number: u64,
    started: Timestamp,
    damage: Option<String>,
}

impl Reader {
    pub(in crate::monitor) fn open(path: &Path) -> Result<Self, Failure> {
        let cannot_read = |e| Failure::file("read", path, &e);
        let file = File::open(path).map_err(cannot_read)?;
        let decoder = zstd::Decoder::new(file).map_err(cannot_read)?;
        let mut reader = Self {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 18, decoder),
            line: Vec::new(),
            number: 0,
            started: Timestamp::UNIX_EPOCH,
            damage: None,
        };
        let has_header = reader.read_line();
        let header = match &reader.damage {
            Some(why) => Err(why.clone()),
            None if !has_header => Err("it is empty".to_owned()),
            None => read_header(&reader.line),
        };
        reader.started = header.map_err(|why| reader.refuse(&why))?;
        Ok(reader)
    }

    /// When the recorded session began.
    pub(in crate::monitor) fn started(&self) -> Timestamp {
        self.started
    }

    /// Why the recording could not be read to its end. What was read before holds.
    pub(in crate::monitor) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The next entry; none at the end.
    pub(in crate::monitor) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        while self.read_line() {
            match read_entry(&self.line) {
                Ok(None) => {}
                Ok(entry) => return Ok(entry),
                Err(why) => return Err(self.refuse(&why)),
            }
        }
        Ok(None)
    }

    /// Reads the next whole line. False at the end, which may come too early.
    fn read_line(&mut self) -> bool {
        self.line.clear();
        self.number += 1;
        match (&mut self.lines).take(LONGEST_LINE).read_until(b'\n', &mut self.line) {
            Ok(0) => return false,
            Ok(_) if self.line.ends_with(b"\n") => return true,
            Ok(_) => self.damage = Some("it ends within a line".to_owned()),
            Err(e) => self.damage = Some(format!("it can be read up to line {} only: {e}", self.number - 1)),
        }
        false
    }

    fn refuse(&self, why: &str) -> Failure {
        let path = self.path.display();
        Failure::new(
            Kind::Local,
            format_args!("cannot read the recording {path}, line {}: {why}", self.number),
        )
        .help("recordings are made by `km monitor --record`")
    }
}
