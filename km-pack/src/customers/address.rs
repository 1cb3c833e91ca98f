//! Where the database is.

use std::fmt;
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use sqlx::any::AnyConnectOptions;

/// The database when none is named.
pub const DEFAULT: &str = "sqlite://dist/km.db";

/// The address of a database: `sqlite://PATH` or `postgres://…`. Shown without user and password.
#[derive(Clone)]
pub struct Address {
    pub(super) place: Place,
    pub(super) options: AnyConnectOptions,
}

/// What kind of database it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A file of SQLite.
    File(PathBuf),
    /// A PostgreSQL server, as it may be shown.
    Server(String),
}

impl Address {
    /// Reads a URL. `sqlite://PATH` takes the rest as the path, as it is; a relative one (two slashes)
    /// is under `folder`.
    ///
    /// # Errors
    /// When it is neither (exit 2). The URL itself is not repeated: a password may stand in it.
    pub fn parse(url: &str, folder: &Path) -> Result<Self, Failure> {
        match url.split_once("://") {
            Some(("sqlite", path)) => Self::file(path, folder),
            Some(("postgres" | "postgresql", _)) => Self::server(url),
            _ => Err(unusable("it begins neither with sqlite:// nor with postgres://")),
        }
    }

    fn file(path: &str, folder: &Path) -> Result<Self, Failure> {
        match path {
            "" => return Err(unusable("sqlite:// lacks the path")),
            ":memory:" => return Err(unusable("a database in memory would be gone with this command")),
            path if path.contains('?') => return Err(unusable("sqlite:// takes no parameters")),
            _ => {}
        }
        let path = folder.join(path);
        let text = path.to_str().ok_or_else(|| unusable("the path is not UTF-8"))?;
        let options = options(&format!("sqlite://{}", percent_encoded(text)))?;
        Ok(Self { place: Place::File(path), options })
    }

    fn server(url: &str) -> Result<Self, Failure> {
        let options = options(url)?;
        let url = &options.database_url;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("postgres://{}{port}{}", url.host_str().unwrap_or_default(), url.path());
        Ok(Self { place: Place::Server(shown), options })
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// What a failure of the database is for the command that wanted something of it.
    pub(super) fn trouble(&self, what: &str, error: &sqlx::Error) -> Failure {
        let kind = match (&self.place, error) {
            (Place::File(_), _) => Kind::Local,
            (Place::Server(_), sqlx::Error::Database(_)) => Kind::Failed,
            (Place::Server(_), _) => Kind::Unreachable,
        };
        Failure::new(kind, format_args!("cannot {what} the database {self}: {error}"))
    }
}

fn options(url: &str) -> Result<AnyConnectOptions, Failure> {
    url.parse().map_err(|e: sqlx::Error| unusable(&e.to_string()))
}

fn unusable(why: &str) -> Failure {
    Failure::new(Kind::Usage, format_args!("the database URL cannot be used: {why}"))
        .help("sqlite://PATH (three slashes before an absolute one) or postgres://USER:PASSWORD@HOST/NAME")
}

/// What a URL would take for something else is written as `%XX`.
fn percent_encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let piece = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.bytes().map(piece).collect()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Server(shown) => f.write_str(shown),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, Failure> {
        Address::parse(url, Path::new("/work"))
    }

    #[test]
    fn a_path_has_two_slashes_and_an_absolute_one_three() {
        let path = |url| parse(url).unwrap().place;
        assert_eq!(path("sqlite://dist/km.db"), Place::File("/work/dist/km.db".into()));
        assert_eq!(path("sqlite:///var/my files/k%m.db"), Place::File("/var/my files/k%m.db".into()));
        let url = parse("sqlite:///var/my files/k%m.db").unwrap().options.database_url;
        assert_eq!(url.as_str(), "sqlite:///var/my%20files/k%25m.db");
        for bad in ["", "dist/km.db", "sqlite://", "sqlite://:memory:", "sqlite://a?mode=ro", "mysql://h/d"] {
            assert_eq!(parse(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let address = parse("postgres://me:s3cret@db.example:5433/km?password=s3cret").unwrap();
        assert_eq!(address.to_string(), "postgres://db.example:5433/km");
        assert!(!format!("{address:?}").contains("s3cret"));
        let refused = parse("postgres://me:s3cret@db:port/km").unwrap_err();
        assert!(!refused.to_string().contains("s3cret"), "{refused}");
    }
}
