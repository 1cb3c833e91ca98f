//! What sessions leave on disk: for plugins that want it in the next one, or because they were killed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use km_package::name::PluginName;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::super::session_id::SessionId;
use super::disk::Disk;
use super::reader::Cursor;
use super::{Journal, Reader};
use crate::paths;

/// Which plugin wants messages from which position on.
const WAITING: &str = "waiting.json";
/// How long messages are kept for a plugin that does not come back.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    plugins: BTreeMap<PluginName, u64>,
}

/// Messages that an earlier session left.
#[derive(Debug)]
pub(crate) struct Leftover {
    journal: Arc<Journal>,
    plugins: BTreeMap<PluginName, u64>,
}

impl Leftover {
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// A reader for a plugin that left messages waiting.
    pub(crate) fn reader(&self, plugin: &PluginName) -> Option<Reader> {
        let position = *self.plugins.get(plugin)?;
        let changed = Arc::new(Notify::new());
        let mut inner = self.journal.lock();
        let index = inner.cursors.iter().position(|cursor| cursor.plugin() == plugin)?;
        inner.cursors[index] = Cursor::new(plugin.clone(), Arc::clone(&changed), position, 0);
        inner.cursors[index].set_durable(true);
        Some(Reader::new(Arc::clone(&self.journal), plugin.clone(), index, changed))
    }
}

/// Notes what plugins wait for in a session's folder.
pub(super) fn write(folder: &Path, plugins: BTreeMap<PluginName, u64>) -> io::Result<()> {
    let document = Waiting { plugins };
    paths::replace_file(&folder.join(WAITING), &serde_json::to_vec(&document)?, 0o600)
}

/// Takes over what sessions left that live no more, oldest first, and removes what nobody waits for.
pub(crate) fn claim(spool: &Path) -> Vec<Leftover> {
    let entries = std::fs::read_dir(spool).into_iter().flatten().flatten();
    let mut folders: Vec<(SessionId, PathBuf)> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((SessionId::parse(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    folders.sort();
    folders.into_iter().filter_map(|(session, folder)| claim_one(session, folder)).collect()
}

fn claim_one(session: SessionId, folder: PathBuf) -> Option<Leftover> {
    let mut plugins = match paths::read_own(&folder.join(WAITING)) {
        Ok(document) => {
            serde_json::from_slice(&document).map_or_else(|_| BTreeMap::new(), |w: Waiting| w.plugins)
        }
        Err(_) => BTreeMap::new(),
    };
    let mut disk = match Disk::reopen(folder.clone()) {
        Ok(disk) => disk?,
        Err(e) => {
            tracing::warn!("messages of an earlier session cannot be read: {}: {e}", folder.display());
            return None;
        }
    };
    let is_old = std::time::SystemTime::from(session.time().unwrap_or(Timestamp::UNIX_EPOCH))
        .elapsed()
        .is_ok_and(|age| age > KEPT);
    let (Some(start), Some(end), false) = (disk.start(), disk.end(), is_old || plugins.is_empty()) else {
        disk.remove();
        return None;
    };
    // Whatever the file says, there is no more than there is.
    plugins.values_mut().for_each(|position| *position = (*position).clamp(start, end));
    let journal = Journal::reopened(session, disk);
    {
        // Nobody may read, but all that was left is to stay until somebody has.
        let mut inner = journal.lock();
        for (plugin, position) in &plugins {
            let mut cursor = Cursor::new(plugin.clone(), Arc::default(), *position, 0);
            cursor.set_durable(true);
            inner.cursors.push(cursor);
        }
    }
    Some(Leftover { journal, plugins })
}
