//! A program in a terminal, of which a test sees the screen.

use std::{
    fs::File,
    io::{self, Read, Write},
    num::NonZero,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{Launch, Program, wait_for};

/// A program whose standard streams are a terminal of its own.
pub struct Terminal {
    program: Program,
    ours: File,
    /// Kept so that what the program wrote last can be read when it has ended.
    theirs: OwnedFd,
    parser: Arc<Mutex<Parser>>,
}

type Parser = vt100::Parser<Title>;

/// The title of the terminal's window.
#[derive(Default)]
struct Title {
    title: Vec<u8>,
}

impl vt100::Callbacks for Title {
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.title = title.to_owned();
    }
}

impl Launch {
    /// Starts the program in a terminal of that size, which understands what `xterm` does.
    pub fn start_in_terminal(self, rows: u16, columns: u16) -> io::Result<Terminal> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&theirs, size(rows, columns))?;
        let stream = || theirs.try_clone().map(Into::into);
        let program = self.env("TERM", "xterm-256color").start_with([stream()?, stream()?, stream()?])?;
        let ours = File::from(ours);
        let parser = Arc::new(Mutex::new(Parser::new_with_callbacks(
            at_least_one(rows),
            at_least_one(columns),
            0,
            Title::default(),
        )));
        read(ours.try_clone()?, parser.clone());
        Ok(Terminal { program, ours, theirs, parser })
    }
}

fn at_least_one(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap_or(NonZero::<u16>::MIN)
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Follows what is written to the terminal until nobody has it open any more.
fn read(mut terminal: File, parser: Arc<Mutex<Parser>>) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            parser.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..length]);
        }
    });
}

impl Terminal {
    fn parser(&self) -> MutexGuard<'_, Parser> {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program that runs in it.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// What is to be seen, a line of the terminal each, without the spaces at their ends.
    pub fn text(&self) -> String {
        self.parser().screen().contents()
    }

    /// What is to be seen, with colours.
    pub fn screen(&self) -> vt100::Screen {
        self.parser().screen().clone()
    }

    /// Whether the program has taken the terminal over: it shows a screen of its own.
    pub fn is_taken(&self) -> bool {
        self.parser().screen().alternate_screen()
    }

    /// Whether the terminal behaves as a shell leaves it: it echoes, and passes whole lines on.
    pub fn is_cooked(&self) -> io::Result<bool> {
        let modes = tcgetattr(&self.theirs)?.local_modes;
        Ok(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }

    /// Waits, once the program has ended, until all that it wrote is to be seen.
    pub fn wait_for_end(&mut self, limit: Duration) -> io::Result<()> {
        // What comes through the same terminal after all of it has come last.
        const END: &str = "\x1b]0;end\x07";
        rustix::io::write(&self.theirs, END.as_bytes())?;
        let parser = self.parser.clone();
        wait_for("the end of what was written", limit, || {
            let parser = parser.lock().unwrap_or_else(PoisonError::into_inner);
            Ok((parser.callbacks().title == b"end").then_some(()))
        })
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &str) -> io::Result<()> {
        self.ours.write_all(keys.as_bytes())
    }

    /// Changes the size of the terminal.
    pub fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        self.parser().screen_mut().set_size(at_least_one(rows), at_least_one(columns));
        tcsetwinsize(&self.ours, size(rows, columns))?;
        // It is not the controlling terminal of the program, so the kernel does not tell.
        self.program.signal(Signal::WINCH)
    }

    /// Waits until what is to be seen is as it should be, and returns it. If it never is, the error has what was there.
    pub fn wait_for_screen(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_right: impl FnMut(&str) -> bool,
    ) -> io::Result<String> {
        let parser = self.parser.clone();
        let text = || parser.lock().unwrap_or_else(PoisonError::into_inner).screen().contents();
        let shown = self.program.wait_for(what, limit, || Ok(Some(text()).filter(|text| is_right(text))));
        shown.map_err(|error| io::Error::new(error.kind(), format!("{error}\non the screen:\n{}", text())))
    }
}
