//! How many messages wait in the mailbox of each main actor. ractor does not tell: each message is counted when it is sent and
//! no more when it is handled or thrown away.

use std::sync::atomic::{AtomicUsize, Ordering};

use ractor::message::{BoxedDowncastErr, BoxedMessage};
use ractor::{ActorId, Message};

/// Messages of one kind that were sent and not handled yet, in this process.
#[derive(Default)]
pub struct Depth(AtomicUsize);

impl Depth {
    pub const fn new() -> Depth {
        Depth(AtomicUsize::new(0))
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A message on its way.
struct Sent<M> {
    message: M,
    _counted: Counted,
}

impl<M: Message> Message for Sent<M> {}

struct Counted(&'static Depth);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `Message::box_message` of a counted kind does.
pub fn send<M: Message>(message: M, depth: &'static Depth, to: &ActorId) -> Result<BoxedMessage, BoxedDowncastErr> {
    depth.0.fetch_add(1, Ordering::Relaxed);
    Sent { message, _counted: Counted(depth) }.box_message(to)
}

/// What `Message::from_boxed` of a counted kind does.
pub fn receive<M: Message>(boxed: BoxedMessage) -> Result<M, BoxedDowncastErr> {
    Ok(Sent::<M>::from_boxed(boxed)?.message)
}

/// Makes a type a message that is counted in a static of the given name.
macro_rules! counted {
    ($message:ty, $depth:ident) => {
        /// Those that wait.
        pub static $depth: $crate::mailbox::Depth = $crate::mailbox::Depth::new();

        impl ractor::Message for $message {
            fn box_message(
                self,
                to: &ractor::ActorId,
            ) -> Result<ractor::message::BoxedMessage, ractor::message::BoxedDowncastErr> {
                $crate::mailbox::send(self, &$depth, to)
            }

            fn from_boxed(boxed: ractor::message::BoxedMessage) -> Result<Self, ractor::message::BoxedDowncastErr> {
                $crate::mailbox::receive(boxed)
            }
        }
    };
}
pub(crate) use counted;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ractor::{Actor, ActorProcessingErr, ActorRef};
    use tokio::sync::oneshot;

    struct Wait(oneshot::Receiver<()>);
    counted!(Wait, WAITING);

    struct Patient;

    impl Actor for Patient {
        type Msg = Wait;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Wait>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, _: ActorRef<Wait>, message: Wait, (): &mut ()) -> Result<(), ActorProcessingErr> {
            let _ = message.0.await;
            Ok(())
        }
    }

    async fn until(depth: usize) {
        let wait = async {
            while WAITING.get() != depth {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_is_counted_until_it_is_handled_or_its_actor_is_gone() {
        let (actor, done) = Actor::spawn(None, Patient, ()).await.unwrap();
        let mut keys = Vec::new();
        for _ in 0..3 {
            let (key, lock) = oneshot::channel();
            keys.push(key);
            actor.cast(Wait(lock)).unwrap();
        }
        // The first is being handled.
        until(2).await;
        drop(keys.remove(0));
        until(1).await;
        actor.kill();
        done.await.unwrap();
        drop(actor);
        until(0).await;
        let (_key, lock) = oneshot::channel();
        let (actor, done) = Actor::spawn(None, Patient, ()).await.unwrap();
        actor.kill();
        done.await.unwrap();
        assert!(actor.cast(Wait(lock)).is_err() && WAITING.get() == 0, "what could not be sent does not wait");
    }
}
