//! What HQ, its command line, its nodes and the agents say to each other: requests, answers and reports as JSON.
//! No server and no client; keys and documents travel as text (`Hex`, `Base64`).
//! Called by `web-server`, by the appliance and by the imaging agent.

mod access;
mod audit;
mod enrolment;
mod import;
mod node;
#[cfg(feature = "openapi")]
mod openapi;
mod page;
mod people;
mod report;
mod signing;
mod summary;
mod text;
mod voucher;
mod wan;

pub use access::{
    AccessTokenInfo, AccessTokenMade, AuthenticatorCode, AuthenticatorOffer, Me, Means,
    NewAccessToken, NewUser, PasswordChange, Right, Role, SessionInfo, Setup, SetupState, SignIn,
    SiteScope, UserChange, UserInfo,
};
pub use audit::{
    AUDIT_BEGINNING, AUDIT_PAGE_ROWS, AuditChain, AuditCheck, AuditFault, AuditPage, AuditRow,
};
pub use enrolment::{EnrolmentToken, ParseTokenError, certificate_fingerprint};
pub use import::{IMPORT_FAULTS_MAX, IMPORT_LINES_MAX, ImportFault, ImportReport};
pub use node::{
    AgentAdmitted, AgentTicket, BESIDE_MAX, Certified, CertifyRequest, ConfirmRequest,
    EnrolRequest, Enrolled, HolderView, LIFE_HELD_SECONDS, LeaseAnswer, LeaseEnd, LeaseHeld,
    LeaseKind, LeaseRequest, NodeDocuments, PeerAddress, ReportsAnswer, ReportsRequest,
    SiteStanding,
};
pub use page::{PAGE_ROWS, PAGE_ROWS_MAX, PAGE_TOTAL_MAX, Page};
pub use people::{
    AdmissionState, ApiError, DemoteSign, EventInfo, ImageKind, ImageVersion, LedgerLine, Machine,
    MachineState, MissingObjects, NewOrder, NewPin, NewSite, NewToken, NodeInfo, NodeRename,
    OrderInfo, SignKind, SiteChange, SiteCreated, SiteInfo, SitePin, SiteUnknown, TokenInfo,
    TokenMade,
};
pub use report::{Facts, InstallReport, InstallState, NodeReport, NumberedReport};
pub use signing::{KeysInfo, NamedKey, RootPublished, RootRow, Waiting, WaitingChannel};
pub use summary::{MachineCounts, NodeCounts, Summary};
pub use text::{Base64, Hex};
pub use voucher::{NewVoucher, VoucherInfo, VoucherMade};
pub use wan::{
    UTC_OFFSET_MINUTES_MAX, WAN_BYTES_PER_SECOND_MIN, WAN_NEWS_SECONDS, WAN_PRIORITY_MAX,
    WAN_WINDOWS_MAX, WanBudget, WanBudgetError, WanChange, WanNews, WanRate, WanRules, WanVersion,
    WanWindow, parse_utc_offset,
};

/// Header with which a node shows its lease when it asks for objects.
pub const LEASE_HEADER: &str = "x-lamplighter-lease";
/// Objects whose presence is asked for in one request.
pub const MISSING_OBJECTS_MAX: usize = 4096;
/// Holders that a node speaks of in one request for a lease: the site's first one and its islands'.
pub const HOLDER_VIEWS_MAX: usize = 16;
/// Reports in one request.
pub const REPORTS_MAX: usize = 256;
/// Port of HQ unless told otherwise.
pub const HQ_PORT: u16 = 8443;
