//! Opening a database: file and folders are made, and its tables brought up to date.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use km_package::failure::{Failure, Kind};
use rustix::fs::{FlockOperation, flock};
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection as _, SqlSafeStr as _};
use tokio::time::{Instant, sleep, timeout};

use super::address::{Address, Place};

/// How long a server has to answer, and another process to finish opening the same file.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request waits for a connection. Shorter than what clients wait for an answer.
const ACQUIRE_DEADLINE: Duration = Duration::from_millis(1500);
/// Each connection to SQLite is a thread that reads.
const FILE_CONNECTIONS: u32 = 4;
const SERVER_CONNECTIONS: u32 = 16;
/// Reads the file through a mapping, up to this size. Else a connection keeps 2 MB of it, reads every other
/// page anew, and forgets all of it whenever somebody else writes: the more customers, the slower.
const MAP_FILE: &str = "PRAGMA mmap_size = 1073741824";

const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "first", include_str!("../../migrations/0001_first.sql"))];

/// Opens the database, brings its tables up to date, and gives a pool of connections.
pub(super) async fn open(address: &Address) -> Result<AnyPool, Failure> {
    sqlx::any::install_default_drivers();
    match &address.place {
        Place::File(path) => {
            let _turn = take_turn(path).await?;
            create(path)?;
            prepare(address, Some("PRAGMA journal_mode = WAL")).await?;
        }
        Place::Server(_) => prepare(address, None).await?,
    }
    let connections = if address.is_file() { FILE_CONNECTIONS } else { SERVER_CONNECTIONS };
    let map = address.is_file();
    Ok(AnyPoolOptions::new()
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if map {
                    sqlx::query(MAP_FILE).execute(connection).await?;
                }
                Ok(())
            })
        })
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_DEADLINE)
        // A server may have closed a connection that waits; a file does not.
        .test_before_acquire(!address.is_file())
        .connect_lazy_with(address.options.clone()))
}

/// A connection of its own, since the pool would keep asking a server that refuses and then not say why.
async fn prepare(address: &Address, pragma: Option<&'static str>) -> Result<(), Failure> {
    let trouble = |e: &sqlx::Error| address.trouble("open", e);
    let connected = timeout(OPEN_DEADLINE, AnyConnection::connect_with(&address.options)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
    let mut connection = connected.map_err(|e| trouble(&e))?;
    if let Some(pragma) = pragma {
        sqlx::query(pragma).execute(&mut connection).await.map_err(|e| trouble(&e))?;
    }
    migrations().run(&mut connection).await.map_err(|error| match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => trouble(&e),
        other => Failure::new(Kind::Failed, format_args!("database {address}: {other}"))
            .help("it was made by another version of km-pack: use that, or a newer one"),
    })?;
    connection.close().await.map_err(|e| trouble(&e))
}

fn migrations() -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into())
}

/// Locks the file's folder, since SQLite has no lock for several statements outside a transaction, and two
/// processes may make the same file. Ends with the handle.
async fn take_turn(path: &Path) -> Result<File, Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|e| local("create", folder, &e))?;
    let handle = File::open(folder).map_err(|e| local("open", folder, &e))?;
    let deadline = Instant::now() + OPEN_DEADLINE;
    loop {
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(handle),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format_args!("another process holds the lock of {}", folder.display());
                return Err(Failure::new(Kind::Conflict, what));
            }
            Err(e) => return Err(local("lock", folder, &e.into())),
        }
    }
}

/// The file holds private keys: nobody else reads it. SQLite gives its side files the same mode. A file
/// that is there is not opened: closing it would end the locks that this process has on it.
fn create(path: &Path) -> Result<(), Failure> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(local("create", path, &e)),
    }
}

/// Nothing that was asked for is missing: it could not be made.
fn local(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure { kind: Kind::Local, ..Failure::file(action, path, error) }
}
