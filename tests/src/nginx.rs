//! nginx from Debian, in a folder of its own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::path;
use crate::processes::wait_until;

/// A running nginx. Ends when dropped.
#[derive(Debug)]
pub struct Nginx {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

/// The program, or why there is none.
///
/// # Errors
/// When nginx is not installed.
pub fn program() -> Result<PathBuf, String> {
    let known = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
    let found = known.iter().map(PathBuf::from).find(|path| path.is_file());
    found.ok_or_else(|| "nginx is not installed (apt-get install nginx-light)".to_owned())
}

impl Nginx {
    /// A plain file server over a folder.
    pub fn serving(program: &Path, folder: &Path) -> Self {
        Self::start(program, "", &format!("root {};", path(folder)))
    }

    /// A balancer in front of servers (`127.0.0.1:port`).
    pub fn in_front_of(program: &Path, servers: &[String]) -> Self {
        let servers: String = servers.iter().map(|server| format!("server {server} max_fails=0;")).collect();
        Self::start(
            program,
            &format!("upstream behind {{ {servers} }}"),
            "location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Host $http_host; \
             proxy_set_header Connection \"\"; proxy_connect_timeout 2s; }",
        )
    }

    fn start(program: &Path, http: &str, server: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Whoever runs as root would have workers that may not enter it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("changed");
        let port = free_port();
        let own = path(folder.path());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {own}/{name};"))
            .concat();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "{user} daemon off; worker_processes 2; pid {own}/pid; error_log {own}/error.log;\n\
             events {{}}\nhttp {{ access_log {own}/access.log; {temporary} {http}\n\
             server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).expect("written");
        let child = Command::new(program)
            .args(["-p", own, "-c", path(&file), "-e", &format!("{own}/error.log")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let nginx = Self { folder, child, port };
        wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        nginx
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests that it has answered, one in each line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

/// A port that nobody listens on; nginx cannot say which one it took.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        // The workers go with it.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
