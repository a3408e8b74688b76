//! The terminal: taken over for the time of the live view, and given back however that ends.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::Once,
    thread,
};

use crossterm::{
    ExecutableCommand, cursor, event,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Terminal, backend::CrosstermBackend};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The terminal, until this is dropped.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on, also what fails gives it back.
        let screen = stdout().execute(EnterAlternateScreen).map(drop).and_then(|()| {
            restore_on_panic();
            Terminal::new(CrosstermBackend::new(stdout()))
        });

        match screen {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whoever looks at the terminal afterwards is to find it as it was. One that is gone cannot be given back.
fn give_back() {
    let _ = stdout().execute(LeaveAlternateScreen);
    let _ = stdout().execute(cursor::Show);
    let _ = disable_raw_mode();
}

/// A message that is written to the other screen would vanish with it.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            give_back();
            report(information);
        }));
    });
}

/// Keys, and changes of size. They are waited for on a thread that goes with the process, because nothing can wake it.
pub(super) fn input() -> UnboundedReceiver<io::Result<event::Event>> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();

            if sender.send(event).is_err() || is_over {
                return;
            }
        }
    });
    receiver
}
