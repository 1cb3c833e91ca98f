//! What is there before a scenario's first step: a folder of its own, and what is given.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};

use super::config::Customer;
use super::keeper::Variables;
use super::scenario::Given;

/// What all scenarios of a run share.
#[derive(Debug)]
pub(super) struct Base {
    /// The root of the checkout.
    pub(super) checkout: PathBuf,
    /// Links to the programs under test.
    pub(super) programs: PathBuf,
    /// What the build phase made.
    pub(super) products: PathBuf,
    /// The temporary folder of this run.
    pub(super) folder: PathBuf,
    /// What tools find of the user's: caches, certificates, proxies.
    pub(super) passed_on: Vec<(OsString, OsString)>,
    pub(super) path: OsString,
    pub(super) customers: Vec<Customer>,
}

/// The place of one scenario.
#[derive(Debug)]
pub(super) struct Ground {
    /// HOME, and where it begins.
    pub(super) home: PathBuf,
    /// What the suite itself writes down.
    pub(super) notes: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    passed_on: Vec<(OsString, OsString)>,
}

impl Ground {
    /// Makes the folder and puts files into it.
    pub(super) fn prepare(base: &Base, name: &str, given: Given) -> Result<Self, Failure> {
        let folder = base.folder.join(name.replace('/', "-"));
        let (home, notes) = (folder.join("home"), folder.join("notes"));
        for folder in [&home.join(".tmp"), &notes] {
            std::fs::create_dir_all(folder).map_err(|e| Failure::file("make", folder, &e))?;
        }
        if given >= Given::Packages {
            for part in ["keys", "dist"] {
                let from = base.products.join(part);
                if !from.is_dir() {
                    let missing = format!("{} is not there", from.display());
                    return Err(Failure::new(Kind::NotFound, missing)
                        .help("the build phase makes it: km-pack automate --phase build"));
                }
                copy(&from, &home.join(part))?;
            }
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let [port, port2] = free_ports()?;
        let mut variables: Vec<(String, String)> = vec![
            ("HOME".into(), text(&home)),
            ("KM_HOME".into(), text(&home.join(".km"))),
            ("TMPDIR".into(), text(&home.join(".tmp"))),
            ("LANG".into(), "C.UTF-8".into()),
            ("PORT".into(), port.to_string()),
            ("PORT2".into(), port2.to_string()),
            ("WORKSPACE".into(), text(&base.checkout)),
            ("KM_CHECKOUT".into(), text(&base.checkout)),
            // What projects of scenarios are compiled from is compiled once; their programs are still their own.
            ("CARGO_BUILD_BUILD_DIR".into(), text(&base.products.join("cargo"))),
        ];
        if given >= Given::Api {
            variables.push(("KM_DATABASE".into(), format!("sqlite://{}", text(&home.join("dist/km.db")))));
        }
        let mut path = base.programs.clone().into_os_string();
        path.push(":");
        path.push(&base.path);
        let mut passed_on = base.passed_on.clone();
        passed_on.push(("PATH".into(), path));
        Ok(Self { home, notes, variables, passed_on })
    }

    /// The whole environment of its shell.
    pub(super) fn environment(&self) -> Variables {
        let own = self.variables.iter().map(|(name, value)| (name.into(), value.into()));
        Variables::Only(self.passed_on.iter().cloned().chain(own).collect())
    }

    /// A text with `$NAME` of these variables filled in.
    pub(super) fn fill_in(&self, text: &str) -> Result<String, Failure> {
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            let found = self.variables.iter().find(|(known, _)| known == name);
            let Some((_, value)) = found else {
                let what = format!("alias: ${name} is not given");
                return Err(
                    Failure::new(Kind::Failed, what).help("KM_API_ENDPOINT is there with given = \"api\"")
                );
            };
            filled.push_str(value);
            filled.push_str(rest);
        }
        Ok(filled)
    }
}

/// Two ports of this machine that nobody listens on.
fn free_ports() -> Result<[u16; 2], Failure> {
    let listen = || TcpListener::bind(("127.0.0.1", 0));
    let ports = || {
        // Both at once, so that they differ.
        let (one, two) = (listen()?, listen()?);
        Ok([one.local_addr()?.port(), two.local_addr()?.port()])
    };
    ports()
        .map_err(|e: std::io::Error| Failure::new(Kind::Local, format_args!("cannot find a free port: {e}")))
}

/// A folder with all that is in it; what is private stays so.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let fails = |e: std::io::Error| Failure::file("copy", from, &e);
    std::fs::create_dir_all(to).map_err(fails)?;
    for entry in std::fs::read_dir(from).map_err(fails)? {
        let entry = entry.map_err(fails)?;
        let to = to.join(entry.file_name());
        if entry.file_type().map_err(fails)?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to).map_err(fails)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_may_name_what_is_given() {
        let variables = vec![("PORT".to_owned(), "4000".to_owned()), ("HOME".to_owned(), "/h".to_owned())];
        let ground = Ground { home: PathBuf::new(), notes: PathBuf::new(), variables, passed_on: Vec::new() };
        assert_eq!(ground.fill_in("http://127.0.0.1:$PORT/x$HOME").unwrap(), "http://127.0.0.1:4000/x/h");
        assert_eq!(ground.fill_in("plain").unwrap(), "plain");
        let failure = ground.fill_in("$KM_API_ENDPOINT").unwrap_err();
        assert!(failure.message.contains("$KM_API_ENDPOINT is not given"), "{failure}");
    }
}
