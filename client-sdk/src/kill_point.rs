//! Steps of operations at which a test may end the process, to see that what was begun is done once or not at all.
//!
//! Each operation goes through [`Step`]s; `POINTS` says through which. With the cargo feature `kill-points` a process whose environment
//! says `VALISE_KILL_POINT=send/answered` aborts when it gets there. Without the feature, as in every build of a product, the functions
//! here are empty; with it, but without the variable, nothing happens either.

/// Where an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "kill-points", derive(Hash))]
#[cfg_attr(
    not(feature = "kill-points"),
    expect(unreachable_pub, dead_code, reason = "only tests look at it")
)]
pub enum Step {
    /// The transaction that stores the operation is complete, and not committed.
    BeforeStored,
    /// It is committed. Nothing has left yet.
    Stored,
    /// The request is about to leave.
    Sending,
    /// The service has answered, and nothing of that is stored.
    Answered,
    /// The engine has heard the answer, and so has the app.
    Heard,
    /// The transaction that does what was asked for, or has come, is complete, and not committed.
    BeforeApplied,
    /// It is committed. Nobody has been told.
    Applied,
    /// The acknowledgement is on its way to the service.
    Acknowledged,
}

#[cfg(not(feature = "kill-points"))]
mod absent {
    use super::Step;

    /// The process is there.
    #[inline]
    pub(crate) const fn reached(_operation: &str, _step: Step) {}

    /// The running transaction stores an operation.
    #[inline]
    pub(crate) const fn storing(_operation: &str) {}

    /// The running transaction does what was asked for, or has come.
    #[inline]
    pub(crate) const fn applying(_operation: &str) {}

    /// A transaction begins.
    #[inline]
    pub(crate) const fn begun() {}

    /// It is complete.
    #[inline]
    pub(crate) const fn before_commit() {}

    /// It is committed.
    #[inline]
    pub(crate) const fn committed() {}

    /// Everything that was applied is acknowledged.
    #[inline]
    pub(crate) const fn acknowledged() {}
}

#[cfg(not(feature = "kill-points"))]
pub(crate) use absent::{acknowledged, applying, before_commit, begun, committed, reached, storing};

#[cfg(feature = "kill-points")]
pub use present::{KillPoint, all};
#[cfg(feature = "kill-points")]
pub(crate) use present::{acknowledged, applying, before_commit, begun, committed, reached, storing};

#[cfg(feature = "kill-points")]
mod present {
    use std::cell::RefCell;
    use std::fmt;
    use std::sync::OnceLock;

    use parking_lot::Mutex;

    use super::Step;

    /// A request that the log's echo completes: a message, a commit, a proposal.
    const ECHOED: &[Step] = &[
        Step::BeforeStored,
        Step::Stored,
        Step::Sending,
        Step::Answered,
        Step::Heard,
        Step::BeforeApplied,
        Step::Applied,
        Step::Acknowledged,
    ];
    /// A request that its answer completes.
    const ANSWERED: &[Step] = &[
        Step::BeforeStored,
        Step::Stored,
        Step::Sending,
        Step::Answered,
        Step::BeforeApplied,
        Step::Applied,
    ];
    /// Something that comes from others.
    const RECEIVED: &[Step] = &[Step::BeforeApplied, Step::Applied, Step::Acknowledged];
    /// A call whose answer is stored.
    const CALLED: &[Step] = &[Step::Sending, Step::Answered, Step::BeforeApplied, Step::Applied];
    /// Something that is only stored: what becomes of it is another operation.
    const STORED: &[Step] = &[Step::BeforeStored, Step::Stored];
    /// Something that is done on the device alone.
    const APPLIED: &[Step] = &[Step::BeforeApplied, Step::Applied];

    /// All operations, and the steps that each goes through.
    const POINTS: &[(&str, &[Step])] = &[
        ("enrol", ANSWERED),
        ("fetch_parameters", CALLED),
        ("make_key_packages", STORED),
        ("publish_key_packages", ANSWERED),
        ("create", ANSWERED),
        ("send", ECHOED),
        ("rename", ECHOED),
        ("wish_add", &[Step::BeforeStored, Step::Stored]),
        ("claim_key_packages", &[Step::Sending, Step::Answered]),
        ("add", ECHOED),
        ("remove", ECHOED),
        ("leave", ECHOED),
        ("set_role", ECHOED),
        ("set_policy", ECHOED),
        ("self_update", ECHOED),
        ("commit_proposals", ECHOED),
        ("join", RECEIVED),
        ("join_last_resort", RECEIVED),
        ("receive_message", RECEIVED),
        ("receive_proposal", RECEIVED),
        ("receive_commit", RECEIVED),
        ("confirm", APPLIED),
        ("expire", APPLIED),
        ("remove_message", APPLIED),
        ("wish_rejoin", STORED),
        ("settle", APPLIED),
        ("rejoin", ANSWERED),
        ("follow_reset", RECEIVED),
        (
            "make_successor",
            &[
                Step::BeforeStored,
                Step::Stored,
                Step::BeforeApplied,
                Step::Applied,
            ],
        ),
        ("add_others", CALLED),
        ("evict_stale", STORED),
        ("renew_certificate", CALLED),
        ("replace_key_packages", CALLED),
        ("change_store_key", APPLIED),
    ];

    /// A step of an operation; as text, `send/before-stored`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct KillPoint {
        /// For example `send`.
        pub operation: &'static str,
        /// Where it is.
        pub step: Step,
    }

    /// All there are.
    pub fn all() -> Vec<KillPoint> {
        let points = POINTS
            .iter()
            .flat_map(|&(operation, steps)| steps.iter().map(move |&step| KillPoint { operation, step }));
        points.collect()
    }

    impl fmt::Display for KillPoint {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let step = match self.step {
                Step::BeforeStored => "before-stored",
                Step::Stored => "stored",
                Step::Sending => "sending",
                Step::Answered => "answered",
                Step::Heard => "heard",
                Step::BeforeApplied => "before-applied",
                Step::Applied => "applied",
                Step::Acknowledged => "acknowledged",
            };
            write!(f, "{}/{step}", self.operation)
        }
    }

    /// Where this process ends.
    fn deadly() -> Option<KillPoint> {
        static DEADLY: OnceLock<Option<KillPoint>> = OnceLock::new();
        *DEADLY.get_or_init(|| {
            let named = std::env::var("VALISE_KILL_POINT").ok()?;
            all().into_iter().find(|point| point.to_string() == named)
        })
    }

    pub(crate) fn reached(operation: &str, step: Step) {
        if let Some(point) = deadly()
            && point.operation == operation
            && point.step == step
        {
            // No destructor runs, nothing is flushed: as after `kill -9`.
            std::process::abort();
        }
    }

    thread_local! {
        /// What the transaction of the engine's thread does.
        static NOTED: RefCell<Vec<(String, Kind)>> = const { RefCell::new(Vec::new()) };
    }
    /// What was applied and is not acknowledged.
    static UNACKNOWLEDGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// What a transaction does with an operation.
    #[derive(Clone, Copy)]
    enum Kind {
        Store,
        Apply,
    }

    fn note(operation: &str, kind: Kind) {
        if deadly().is_some() {
            NOTED.with_borrow_mut(|noted| noted.push((operation.to_owned(), kind)));
        }
    }

    pub(crate) fn storing(operation: &str) {
        note(operation, Kind::Store);
    }

    pub(crate) fn applying(operation: &str) {
        note(operation, Kind::Apply);
    }

    pub(crate) fn begun() {
        NOTED.with_borrow_mut(Vec::clear);
    }

    pub(crate) fn before_commit() {
        NOTED.with_borrow(|noted| {
            for (operation, kind) in noted {
                match kind {
                    Kind::Store => reached(operation, Step::BeforeStored),
                    Kind::Apply => reached(operation, Step::BeforeApplied),
                }
            }
        });
    }

    pub(crate) fn committed() {
        for (operation, kind) in NOTED.take() {
            match kind {
                Kind::Store => reached(&operation, Step::Stored),
                Kind::Apply => {
                    reached(&operation, Step::Applied);
                    UNACKNOWLEDGED.lock().push(operation);
                }
            }
        }
    }

    pub(crate) fn acknowledged() {
        for operation in std::mem::take(&mut *UNACKNOWLEDGED.lock()) {
            reached(&operation, Step::Acknowledged);
        }
    }
}
