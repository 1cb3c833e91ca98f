//! Commands whose short flags take a password.

/// A command that takes a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Curl,
    Mysql,
    Redis,
    Sshpass,
}

/// What a word of a command line says about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// It is the next word.
    Next,
    /// It is the next word if that has a colon, after the user's name.
    NextAfterColon,
    /// It is in this word, from this byte on.
    Here(usize),
}

/// The command that a word of a command line calls.
pub(super) fn command(word: &str) -> Option<Command> {
    let name = word.rsplit(['/', '\\']).next().unwrap_or(word);
    match name.strip_suffix(".exe").unwrap_or(name) {
        "curl" => Some(Command::Curl),
        "mysql" | "mysqldump" | "mysqladmin" | "mysqlimport" | "mysqlsh" | "mariadb" | "mariadb-dump"
        | "mariadb-admin" => Some(Command::Mysql),
        "redis-cli" | "valkey-cli" => Some(Command::Redis),
        "sshpass" => Some(Command::Sshpass),
        _ => None,
    }
}

/// What a word that follows the command says.
pub(super) fn flag(command: Command, word: &str) -> Option<Flag> {
    match (command, word) {
        (Command::Curl, "-u" | "-U" | "--user" | "--proxy-user") => Some(Flag::NextAfterColon),
        (Command::Redis, "-a") | (Command::Sshpass, "-p") => Some(Flag::Next),
        (Command::Mysql | Command::Sshpass, word) if word.len() > 2 && word.starts_with("-p") => {
            Some(Flag::Here(2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_mean_what_their_command_says() {
        for (word, flag_, expected) in [
            ("mysql", "-px", Some(Flag::Here(2))),
            ("/usr/bin/mysqldump", "-px", Some(Flag::Here(2))),
            ("mysql", "-p", None),
            ("mysql", "--port", None),
            ("sshpass", "-p", Some(Flag::Next)),
            ("sshpass", "-px", Some(Flag::Here(2))),
            ("sshpass", "-e", None),
            ("redis-cli", "-a", Some(Flag::Next)),
            ("redis-cli", "-p", None),
            (r"C:\bin\curl.exe", "-u", Some(Flag::NextAfterColon)),
        ] {
            assert_eq!(flag(command(word).unwrap(), flag_), expected, "{word} {flag_}");
        }
        for word in ["", "/", "ssh", "mysqld", "mkdir"] {
            assert_eq!(command(word), None, "{word}");
        }
    }
}
