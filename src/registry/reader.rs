//! The thread that answers operators' questions, over a connection of its own: however long
//! one takes, no write and no poll waits for it, and its failures are its askers' alone.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::error::Place;
use super::store::Answers;
use super::{AuditQuery, AuditRecord, DeviceQuery, DeviceRecord, RegistryError, StoreFault};
use crate::names::{DeviceId, TenantId};

pub(super) type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// What the reader is asked. What nobody waits for any more is left out.
pub(super) enum Question {
    Devices(DeviceQuery, Reply<Vec<DeviceRecord>>),
    Device(TenantId, DeviceId, Reply<Option<DeviceRecord>>),
    Count(TenantId, Reply<u64>),
    Audit(AuditQuery, Reply<Vec<AuditRecord>>),
}

pub(super) struct Reader {
    pub(super) queue: mpsc::Receiver<Question>,
    pub(super) answers: Box<dyn Answers>,
    /// The longest that one question may take; whoever waits behind it may wait for less.
    pub(super) deadline: Duration,
}

/// The reader ends, whatever it is doing, when this is dropped.
pub(super) struct Lifeline {
    held: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Lifeline {
    /// Ends the reader and waits until its connection is closed.
    pub(super) async fn end(self) {
        drop(self.held);
        // Nothing is ever sent: the other half is dropped when the thread ends.
        let _ = self.ended.await;
    }
}

impl Reader {
    /// Starts the thread. It connects with the first question.
    pub(super) fn spawn(self) -> Result<Lifeline, RegistryError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(RegistryError::Thread)?;
        let (held, end) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        thread::Builder::new()
            .name("registry-reader".into())
            .spawn(move || {
                runtime.block_on(self.run(end));
                drop::<oneshot::Sender<()>>(ending);
            })
            .map_err(RegistryError::Thread)?;
        Ok(Lifeline { held, ended })
    }

    async fn run(self, mut end: oneshot::Receiver<()>) {
        let Reader { mut queue, mut answers, deadline } = self;
        loop {
            let serving = async {
                let question = queue.recv().await?;
                answer(&mut *answers, question, deadline).await;
                Some(())
            };
            tokio::select! {
                biased;
                _ = &mut end => break,
                served = serving => if served.is_none() { break },
            }
        }
        // Who asks from here on learns at once that the registry is closed.
        drop(queue);
        answers.close().await;
    }
}

async fn answer(answers: &mut dyn Answers, question: Question, deadline: Duration) {
    let place = answers.place().clone();
    match question {
        Question::Devices(query, reply) if !reply.is_closed() => {
            let found = timeout(deadline, answers.devices(&query)).await;
            tell(&place, deadline, reply, found.ok());
        }
        Question::Device(tenant, device, reply) if !reply.is_closed() => {
            let found = timeout(deadline, answers.device(&tenant, &device)).await;
            tell(&place, deadline, reply, found.ok());
        }
        Question::Count(tenant, reply) if !reply.is_closed() => {
            let found = timeout(deadline, answers.device_count(&tenant)).await;
            tell(&place, deadline, reply, found.ok());
        }
        Question::Audit(query, reply) if !reply.is_closed() => {
            let found = timeout(deadline, answers.audit(&query)).await;
            tell(&place, deadline, reply, found.ok());
        }
        // Nobody waits.
        Question::Devices(..)
        | Question::Device(..)
        | Question::Count(..)
        | Question::Audit(..) => {}
    }
}

/// `None`: no answer in time.
fn tell<T>(
    place: &Place,
    deadline: Duration,
    reply: Reply<T>,
    found: Option<Result<T, StoreFault>>,
) {
    let place = || place.clone();
    let answer = match found {
        Some(Ok(found)) => Ok(found),
        Some(Err(fault)) => {
            Err(RegistryError::Unavailable { place: place(), fault: Arc::new(fault) })
        }
        None => Err(RegistryError::Timeout { place: place(), after: deadline }),
    };
    // Whoever gave up meanwhile has its deadline's error.
    let _ = reply.send(answer);
}
