//! How the misbehaving plugin (`tests/src/bin/misbehaving.rs`) misbehaves.

/// One way to misbehave. The plugin finds it in its own file name, `km-plugin-<name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Behaves, and says what it gets.
    Counts,
    /// Never says where it listens.
    NeverStarts,
    /// Ends before the handshake, with a word.
    ExitsEarly,
    /// Says something that looks like a handshake and is none.
    GarbageLine,
    /// Writes without end to stdout, without a newline.
    EndlessLine,
    /// Speaks a protocol that nobody offered.
    WrongVersion,
    /// Announces another certificate than it has.
    WrongCertificate,
    /// Answers that nobody may use it.
    RefusesAuthentication,
    /// Takes messages from anybody, authenticated or not.
    AcceptsAnyone,
    /// Never answers when it is initialized.
    Hangs,
    /// Takes ten seconds for each message.
    AnswersLate,
    /// Dies at the third message.
    Crashes,
    /// Does not leave, neither asked nor told.
    IgnoresStop,
    /// Starts a child, and one in a session of its own, that would live on.
    Forks,
    /// Dies of every message that has the word `poison` in it.
    Poisoned,
    /// Takes 64 MiB of memory for each of its first twelve messages, and keeps them.
    Eats,
    /// Writes a lot to stderr for each message.
    FloodsStderr,
    /// Says that each message failed.
    Fails,
    /// Answers each message with an error of the call, as Go handlers do that `return nil, err`.
    ErrorsOut,
    /// Writes what should look like `km`'s own lines, and steer the terminal.
    ForgesLines,
    /// Needs a tier that nobody has here.
    NeedsPro,
    /// Speaks protocol 2 as it was before `Deliver`, and believes anyone.
    LacksDeliver,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Counts,
        Self::NeverStarts,
        Self::ExitsEarly,
        Self::GarbageLine,
        Self::EndlessLine,
        Self::WrongVersion,
        Self::WrongCertificate,
        Self::RefusesAuthentication,
        Self::AcceptsAnyone,
        Self::Hangs,
        Self::AnswersLate,
        Self::Crashes,
        Self::IgnoresStop,
        Self::Forks,
        Self::Poisoned,
        Self::Eats,
        Self::FloodsStderr,
        Self::Fails,
        Self::ErrorsOut,
        Self::ForgesLines,
        Self::NeedsPro,
        Self::LacksDeliver,
    ];

    /// The plugin's name in this mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::NeverStarts => "never-starts",
            Self::ExitsEarly => "exits-early",
            Self::GarbageLine => "garbage-line",
            Self::EndlessLine => "endless-line",
            Self::WrongVersion => "wrong-version",
            Self::WrongCertificate => "wrong-certificate",
            Self::RefusesAuthentication => "refuses-authentication",
            Self::AcceptsAnyone => "accepts-anyone",
            Self::Hangs => "hangs",
            Self::AnswersLate => "answers-late",
            Self::Crashes => "crashes",
            Self::IgnoresStop => "ignores-stop",
            Self::Forks => "forks",
            Self::Poisoned => "poisoned",
            Self::Eats => "eats",
            Self::FloodsStderr => "floods-stderr",
            Self::Fails => "fails",
            Self::ErrorsOut => "errors-out",
            Self::ForgesLines => "forges-lines",
            Self::NeedsPro => "needs-pro",
            Self::LacksDeliver => "lacks-deliver",
        }
    }
}
