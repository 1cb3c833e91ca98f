//! A plugin that writes down the number of each message it is given, before it says that it has handled
//! it: 8 bytes each, in `<name>.log` beside the folder of plugins. As `km-plugin-keeps` and
//! `km-plugin-durable` it finds its position there when it is started anew; as `km-plugin-forgets` it
//! does not. `km-plugin-durable` wants in the next session what it could not be given.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use km_plugin::{About, Batch, Permissions, Plugin, Result, SessionId, Tier};

struct Keeping {
    log: PathBuf,
    keeps: bool,
    /// Of the session that it is given, which is part of the file's name from then on.
    file: Option<(SessionId, File)>,
}

impl Keeping {
    fn path(&self, session: &SessionId) -> PathBuf {
        self.log.with_extension(format!("{session}.log"))
    }

    fn file(&mut self, session: &SessionId) -> Result<&mut File> {
        if self.file.as_ref().is_none_or(|(open, _)| open != session) {
            let file = OpenOptions::new().create(true).append(true).open(self.path(session))?;
            self.file = Some((session.clone(), file));
        }
        let (_, file) = self.file.as_mut().ok_or("no file")?;
        Ok(file)
    }
}

impl Plugin for Keeping {
    fn position(&mut self, session: &SessionId) -> Option<u64> {
        let kept = std::fs::read(self.path(session)).ok()?;
        let last = kept.as_chunks::<8>().0.last()?;
        self.keeps.then(|| u64::from_le_bytes(*last))
    }

    fn batch(&mut self, batch: &Batch) -> Result {
        let session = batch.session().ok_or("protocol 1 has no sessions")?.clone();
        let numbers: Vec<u8> = batch.into_iter().flat_map(|message| message.sequence.to_le_bytes()).collect();
        // One call: it is in the file whole, or not at all.
        Ok(self.file(&session)?.write_all(&numbers)?)
    }
}

fn main() -> ExitCode {
    let path = std::env::args().next().unwrap_or_default();
    let package = path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = package.trim_start_matches("km-plugin-").to_owned();
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let home = own.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
    let about = About {
        package: package.leak(),
        version: "0.0.0",
        description: "writes down what it is given",
        required_tier: Tier::Free,
        features: &[],
        permissions: Permissions::default(),
        durable: name == "durable",
    };
    km_plugin::serve(about, Keeping { log: home.join(&name), keeps: name != "forgets", file: None })
}
