//! The ways from a client to a server.

use std::process::{Command, Stdio};

use km_tests::{TestEnvironment, binary, path};

/// A way from a client to a server.
pub(crate) struct Way {
    pub(crate) name: String,
    kind: Kind,
}

enum Kind {
    /// The server itself.
    Direct,
    /// In a shell, where `"$@"` is the server.
    Shell(&'static str),
    /// `socat`, which has the server as one text.
    Socat,
    Pump,
    /// `km monitor`, with these arguments, in a home with its plugins.
    Km(Vec<&'static str>, TestEnvironment),
}

/// All of them, and those that a table has.
pub(crate) struct Ways {
    pub(crate) direct: Way,
    pub(crate) cats: Way,
    pub(crate) tee: Way,
    /// Where it is installed.
    pub(crate) socat: Option<Way>,
    pub(crate) pump: Way,
    /// With 0, 1 and 5 plugins.
    pub(crate) km: [Way; 3],
}

impl Ways {
    pub(crate) fn prepare() -> Self {
        let way = |name: &str, kind| Way { name: name.to_owned(), kind };
        let has_socat = Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_ok();
        if !has_socat {
            println!("without socat, which is not installed (apt-get install socat)");
        }
        Self {
            direct: way("direct", Kind::Direct),
            cats: way("`cat` \\| server \\| `cat`", Kind::Shell("cat | \"$@\" | cat")),
            tee: way(
                "`tee /dev/null` \\| server \\| `tee /dev/null`",
                Kind::Shell("tee /dev/null | \"$@\" | tee /dev/null"),
            ),
            socat: has_socat.then(|| way("`socat`", Kind::Socat)),
            pump: way("bare pump (Rust, 2 threads)", Kind::Pump),
            km: [
                way("`km monitor --no-plugins`", Kind::Km(vec!["--no-plugins"], TestEnvironment::empty())),
                way("`km monitor`, 1 plugin", Kind::Km(Vec::new(), with_plugins(1))),
                way("`km monitor`, 5 plugins", Kind::Km(Vec::new(), with_plugins(5))),
            ],
        }
    }
}

impl Way {
    /// The command that a client starts to have this server, with pipes.
    pub(crate) fn command(&self, server: &[&str]) -> Command {
        let mut command = match &self.kind {
            Kind::Direct => {
                let mut command = Command::new(server[0]);
                command.args(&server[1..]);
                command
            }
            Kind::Shell(script) => {
                let mut command = Command::new("sh");
                command.args(["-c", script, "sh"]).args(server);
                command
            }
            Kind::Socat => {
                let mut command = Command::new("socat");
                command.args(["-", &format!("EXEC:{}", server.join(" "))]);
                command
            }
            Kind::Pump => {
                let mut command = Command::new(binary("pump"));
                command.args(server);
                command
            }
            Kind::Km(arguments, environment) => {
                let mut command = environment.command("km");
                command.args(["-v", "monitor"]).args(arguments).arg("--").args(server);
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn is_km(&self) -> bool {
        matches!(self.kind, Kind::Km(..))
    }
}

/// A home with so many plugins that count.
fn with_plugins(count: usize) -> TestEnvironment {
    let environment = TestEnvironment::empty();
    for name in ["one", "two", "three", "four", "five"].into_iter().take(count) {
        environment.allow(&binary("counting"), name);
    }
    println!("plugins: {count} of {}", path(&binary("counting")));
    environment
}
