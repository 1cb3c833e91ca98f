//! The private folders in which plugins make their sockets.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What they are called: this, the host's process id, and more.
const PREFIX: &str = "plugin-";

/// Makes one, mode 0700, removed when dropped.
pub(super) fn private_folder(root: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(root)
}

/// Removes the socket folders that hosts left in `root` (a [`Host::socket_root`](super::Host)) when
/// they were killed. Those of living processes are kept.
pub fn sweep_sockets(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let host = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && host.and_then(|pid| pid.parse().ok()).is_some_and(is_gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_gone(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}
