//! Examples as child processes.

#![allow(dead_code)] // each test uses a part

pub mod kills;
pub mod random;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here takes on the slowest machine. When it is over, something hangs.
const TOO_LONG: Duration = Duration::from_secs(120);

/// The binary of an example. Cargo builds all of them before it runs all tests, beside the test's own binary.
pub fn binary(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.is_file(),
        "{} is not built: a plain `cargo test` builds it, with `--test` run `cargo build --example {example}` first",
        binary.display()
    );
    binary
}

/// A run of an example. It is killed if the test fails.
pub struct Run {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
    errors: Option<JoinHandle<String>>,
}

/// How a run ended.
pub struct Ended {
    pub status: ExitStatus,
    /// Standard output.
    pub lines: Vec<String>,
    /// Standard error.
    pub errors: String,
}

impl Run {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (output, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Self { child, lines, heard: Vec::new(), errors: Some(errors) }
    }

    /// Waits for a line of its standard output that begins like this; `false` if it ended before.
    pub fn says(&mut self, beginning: &str) -> bool {
        loop {
            match self.lines.recv_timeout(TOO_LONG) {
                Ok(line) => {
                    let found = line.starts_with(beginning);
                    self.heard.push(line);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => panic!("it hangs; so far it said {:#?}", self.heard),
            }
        }
    }

    /// `kill -9`, unless it has ended by itself before, and then well.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        let ended = self.wait();
        if ended.killed() { ended } else { ended.well() }
    }

    /// The signal of Ctrl-C.
    #[cfg(unix)]
    pub fn interrupt(&self) {
        let signal = Command::new("sh").arg("-c").arg(format!("kill -INT {}", self.child.id())).status();
        assert!(signal.unwrap().success());
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        while self.says("\0") {}
        let status = self.child.wait().unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        Ended { status, lines: std::mem::take(&mut self.heard), errors }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Whether it did not end by itself.
    pub fn killed(&self) -> bool {
        self.status.code().is_none() || cfg!(windows) && !self.status.success()
    }

    /// Asserts exit code 0.
    pub fn well(self) -> Self {
        assert!(self.status.success(), "{}\n{:#?}\n{}", self.status, self.lines, self.errors);
        self
    }

    pub fn says(&self, part: &str) -> bool {
        self.lines.iter().any(|line| line.contains(part))
    }
}

/// Path, time of modification and content of everything below a folder.
pub fn everything_in(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime, Option<Vec<u8>>)> {
    let mut all = vec![(folder.to_owned(), std::fs::metadata(folder).unwrap().modified().unwrap(), None)];
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            all.extend(everything_in(&entry.path()));
        } else {
            let content = std::fs::read(entry.path()).unwrap();
            all.push((entry.path(), metadata.modified().unwrap(), Some(content)));
        }
    }
    all.sort();
    all
}
