//! A named pipe: opening one without a writer blocks for ever, and `explain` with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long one look for a writer takes, in milliseconds.
const LOOK: u16 = 50;

/// Opens a named pipe for reading, once a program has it open for writing; nothing where none does within `limit`.
///
/// A writer that takes its time to write is waited for without a limit, as any pipe's is.
pub(super) fn open(path: &str, limit: Duration) -> io::Result<Option<Box<dyn Read>>> {
    let began = Instant::now();
    let mut pipe = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let first = loop {
        let mut byte = [0];
        match pipe.read(&mut byte) {
            Ok(1) => break byte.to_vec(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Vec::new(),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            // There is no writer: there never was one, or it has left.
            _ => {}
        }
        if has_come_and_left(&pipe)? {
            break Vec::new();
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
    };
    let flags = OFlag::from_bits_truncate(fcntl(&pipe, FcntlArg::F_GETFL)?) & !OFlag::O_NONBLOCK;
    fcntl(&pipe, FcntlArg::F_SETFL(flags))?;
    Ok(Some(Box::new(Cursor::new(first).chain(pipe))))
}

/// Waits a moment for a writer; whether one had the pipe open and closed it again.
fn has_come_and_left(pipe: &File) -> io::Result<bool> {
    let mut wanted = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wanted, PollTimeout::from(LOOK)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is = wanted[0].revents().unwrap_or(PollFlags::empty());
    Ok(is.contains(PollFlags::POLLHUP) && !is.contains(PollFlags::POLLIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use std::{io::Write as _, thread};

    #[test]
    fn a_pipe_is_read_once_it_has_a_writer_and_given_up_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe").to_str().unwrap().to_owned();
        mkfifo(path.as_str(), Mode::S_IRWXU).unwrap();
        assert!(open(&path, Duration::ZERO).unwrap().is_none());
        for text in ["", "a: 1\n"] {
            // It opens as soon as there is a reader, and writes when it likes.
            let writer = thread::spawn({
                let path = path.clone();
                move || OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap()
            });
            let mut read = String::new();
            open(&path, Duration::MAX).unwrap().unwrap().read_to_string(&mut read).unwrap();
            writer.join().unwrap();
            assert_eq!(read, text);
        }
    }
}
