//! The way of a process that was started as a child to the code that it is to run.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BoxError, ConfigurationError};
use crate::exit::exit_code;
use crate::instance::{Instance, child_name, child_title};
use crate::listener::inherited;
use crate::notify::Notify;
use crate::notify::link::{LINK_PIPE, Link};
use crate::spec::{Runtime, Service, Start};
use crate::sys::watch::watch;
use crate::sys::{inherit, latch};
use crate::threads::Threads;
use crate::title;

/// The variable that tells a process which service and instance it is, as `service#instance`.
pub(crate) const ENTRY: &str = "ASYNC_CONTAINER_ENTRY";

/// True if this process was started as a child, to run the code of a service.
pub fn is_child() -> bool {
    std::env::var_os(ENTRY).is_some()
}

/// Runs the service that this process was started for, or returns `None` if it was not started as a child.
pub(crate) fn run(application: &str, services: &[Service]) -> Option<ExitCode> {
    let entry = inherit::take_variable(ENTRY)?;
    Some(match find(&entry, services) {
        Some((service, index)) => run_service(application, service, index),
        None => {
            tracing::error!(
                variable = ENTRY,
                value = entry,
                "no such service: this program was started as a child of another one"
            );
            ExitCode::FAILURE
        }
    })
}

fn find<'services>(entry: &str, services: &'services [Service]) -> Option<(&'services Service, u32)> {
    let (name, index) = entry.rsplit_once('#')?;
    let service = services.iter().find(|service| service.name == name)?;
    Some((service, index.parse().ok()?))
}

fn run_service(application: &str, service: &Service, index: u32) -> ExitCode {
    latch::arm(stop_signals(service));
    // The file's name would be `exe`, since that is how this program was found.
    let _ = rustix::thread::set_name(&std::ffi::CString::new(service.name.as_str()).unwrap_or_default());
    let title = child_title(application, &service.name, index);
    title::claim();
    title::set(&title);
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => {
            tracing::error!(child = child_name(&service.name, index), error = %chain(error.as_ref()), "cannot take over what the root passed on");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match service.runtime {
        Runtime::CurrentThread => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        Runtime::MultiThread(threads) => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build()
        }
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(child = child_name(&service.name, index), %error, "cannot build the runtime");
            return ExitCode::FAILURE;
        }
    };
    // On a multi-threaded runtime the work belongs on its threads, so that a blocked one stops the beats
    // only when all are blocked.
    let service = service.clone();
    let result = runtime
        .block_on(async move { tokio::spawn(async move { drive(&service, index, title, inherited).await }).await });
    // Threads that block for ever must not keep the process from ending.
    runtime.shutdown_background();
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.is::<ConfigurationError>() => {
            let error = chain(error.as_ref());
            tracing::error!(error, "the configuration is wrong");
            // So that whoever asks the root why need not look for it in the log.
            if let Err(error) = Notify::open().status(error) {
                tracing::debug!(%error, "cannot tell the root what is wrong");
            }
            ExitCode::from(exit_code::CONFIGURATION)
        }
        Ok(Err(error)) => {
            tracing::error!(error = %chain(error.as_ref()), "the service failed");
            ExitCode::FAILURE
        }
        // The panic's message has been printed by its hook.
        Err(_) => ExitCode::from(101),
    }
}

/// Runs the service's code, with everything that an instance does beside it.
async fn drive(service: &Service, index: u32, title: String, inherited: Inherited) -> Result<(), BoxError> {
    let Start::Entry(work) = &service.start else {
        return Err("this service is a command, not code of this program".into());
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stop = signal(SignalKind::from_raw(service.stop_signal.as_raw()))?;
    // A reload concerns the root, which replaces this process by itself.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut early = latch::has_seen(stop_signals(service));

    let link = inherited.link.map(Link::new).transpose()?;
    let instance = Instance::new(service.name.clone(), index, title, inherited.listeners, link);
    if let Some(timeout) = service.health_check_timeout
        && service.threads == 1
    {
        tokio::spawn(beat(instance.clone(), timeout));
    }
    if let Some(pipe) = instance.notify_pipe() {
        let pipe = watch(pipe.try_clone_to_owned()?, Interest::ERROR)?;
        tokio::spawn(async move {
            // The reading end is closed by nothing but the end of the root. The kernel kills this process
            // then as well; that wish is lost when a program with other privileges was executed.
            if pipe.ready(Interest::ERROR).await.is_ok() {
                tracing::error!("the root has ended");
                std::process::exit(1);
            }
        });
    }

    let mut asked = async || {
        if std::mem::take(&mut early) {
            return;
        }
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                _ = stop.recv() => return,
                _ = hangup.recv() => {}
            }
        }
    };
    if service.threads > 1 {
        let mut threads = Threads::start(service, Arc::clone(work), instance, service.threads)?;
        loop {
            tokio::select! {
                result = threads.run() => return result,
                () = asked() => threads.begin_shutdown(),
            }
        }
    }
    let work = work(instance.clone());
    tokio::pin!(work);
    loop {
        tokio::select! {
            // First, so that code which wants to hear of the end has said so even if the wish came before it ran.
            biased;
            result = &mut work => return result,
            () = asked() => {}
        }
        // Repeated signals change nothing: how long it may take is for the root to decide.
        instance.begin_shutdown();
        if !instance.is_observed() {
            return Ok(());
        }
    }
}

/// The signals that ask an instance to end.
fn stop_signals(service: &Service) -> [i32; 3] {
    [libc::SIGINT, libc::SIGTERM, service.stop_signal.as_raw()]
}

/// Beats twice in the time that the root allows, from the runtime that does the work.
async fn beat(instance: Instance, timeout: Duration) {
    let mut interval = tokio::time::interval((timeout / 2).max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(error) = instance.notify().healthy() {
            tracing::debug!(%error, "cannot tell the root that this instance is healthy");
        }
    }
}

/// What the root gave to this process. It is taken before there is a second thread, because it is named
/// by variables that are then removed from the environment.
struct Inherited {
    listeners: BTreeMap<String, OwnedFd>,
    link: Option<OwnedFd>,
}

impl Inherited {
    fn take() -> Result<Self, BoxError> {
        Notify::open();
        let link = inherit::take_variable(LINK_PIPE);
        let link = link.map(|number| inherit::take(number.parse()?).map_err(BoxError::from)).transpose()?;
        Ok(Inherited { listeners: inherited::take()?.into_iter().collect(), link })
    }
}

/// An error and what caused it, in one line. What an error has said of its cause already is not said again.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
