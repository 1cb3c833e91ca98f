//! The plugin of these tests: this program, when a host starts it. It writes down what it sees.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use km_package::digest::Digest;
use km_plugin::{About, Batch, Message, Permissions, Plugin, Result, SessionId, Tier};

/// Says how the plugin works, and makes this program one.
pub(crate) const WAY: &str = "DELIVER_WAY";
/// Where it keeps what it has seen.
pub(crate) const FOLDER: &str = "DELIVER_FOLDER";
/// The file of what it has seen, there.
pub(crate) const SEEN: &str = "seen";
/// A pipe there, which it reads a line from before it goes on.
pub(crate) const DOOR: &str = "door";

/// How the plugin works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// One message after the other.
    Messages,
    /// One message after the other, and waits at the door in the fourth.
    Waits,
    /// One message after the other, and dies in the fifth, at the first time.
    Dies,
    /// The same after it has written down the fifth, and it says what it has.
    DiesAndKnows,
    /// Fails with each message of an even number.
    Fails,
    /// Many messages at once, and waits at the door in the first batch.
    Batches,
    /// The same; of every further batch it says that the first is handled, that the second failed, and
    /// fails.
    FailsInBatch,
}

impl Way {
    const ALL: [Self; 7] = [
        Self::Messages,
        Self::Waits,
        Self::Dies,
        Self::DiesAndKnows,
        Self::Fails,
        Self::Batches,
        Self::FailsInBatch,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

pub(crate) fn main() -> Option<ExitCode> {
    let name = std::env::var(WAY).ok()?;
    let way = Way::ALL.into_iter().find(|way| way.name() == name).expect("a way");
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("a folder"));
    let about = About {
        package: "km-plugin-author",
        version: "1.2.3",
        description: "writes down what it sees",
        required_tier: Tier::Free,
        features: &[],
        permissions: Permissions::default(),
        durable: true,
    };
    let seen = OpenOptions::new().create(true).append(true).open(folder.join(SEEN)).expect("a file");
    let author = Author { way, folder, seen };
    Some(match way {
        Way::Batches | Way::FailsInBatch => km_plugin::serve(about, Many { author, batches: 0 }),
        _ => km_plugin::serve(about, author),
    })
}

struct Author {
    way: Way,
    folder: PathBuf,
    seen: File,
}

impl Author {
    fn write_down(&mut self, message: &Message) -> Result {
        let session = message.session.as_ref().map_or("-", SessionId::as_str);
        let digest = Digest::of(message.data()).prefix(8);
        let line = format!("{session} {} {} {digest} {message:?}\n", message.sequence, message.size());
        // In one piece, so that a crash leaves whole lines.
        self.seen.write_all(line.as_bytes())?;
        Ok(())
    }

    fn wait_at_the_door(&self) -> Result {
        let mut line = String::new();
        BufReader::new(File::open(self.folder.join(DOOR))?).read_line(&mut line)?;
        Ok(())
    }

    fn dies_now(&self) -> bool {
        OpenOptions::new().write(true).create_new(true).open(self.folder.join("died")).is_ok()
    }
}

impl Plugin for Author {
    fn message(&mut self, message: &Message) -> Result {
        let number = message.sequence;
        match self.way {
            Way::Dies if number == 5 && self.dies_now() => std::process::abort(),
            Way::Waits if number == 4 => self.wait_at_the_door()?,
            Way::Fails if number.is_multiple_of(2) => return Err(format!("{number} is even").into()),
            _ => {}
        }
        self.write_down(message)?;
        if self.way == Way::DiesAndKnows && number == 5 && self.dies_now() {
            std::process::abort();
        }
        Ok(())
    }

    fn position(&mut self, session: &SessionId) -> Option<u64> {
        if self.way != Way::DiesAndKnows {
            return None;
        }
        let seen = std::fs::read_to_string(self.folder.join(SEEN)).ok()?;
        let words = seen.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.filter(|words| words[0] == session.as_str()).filter_map(|words| words[1].parse().ok()).max()
    }
}

/// The author of a plugin that takes batches.
struct Many {
    author: Author,
    batches: u32,
}

impl Plugin for Many {
    fn batch(&mut self, batch: &Batch) -> Result {
        let messages = batch.messages();
        self.batches += 1;
        if self.batches == 1 {
            self.author.wait_at_the_door()?;
        } else if self.author.way == Way::FailsInBatch {
            batch.handled(&messages[0]);
            batch.failed(&messages[1], "the second");
            return Err("the rest".into());
        }
        batch.into_iter().try_for_each(|message| self.author.write_down(message))?;
        writeln!(self.author.seen, "batch of {}", messages.len())?;
        Ok(())
    }
}
