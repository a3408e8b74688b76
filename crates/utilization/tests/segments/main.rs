//! Metrics seen by other processes.

mod counting;
mod helper;
mod hostile;
mod processes;
