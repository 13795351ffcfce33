package rest

import (
	"context"
	"io"

	"baystream/daemon/domain"
	"baystream/daemon/journal"
)

// What the Library is asked for.
type (
	CreateBundleRequest = domain.CreateBundleRequest
	CaptureRequest      = domain.CaptureRequest
)

// Library does the artifacts' long work. A method that returns a task has only
// accepted the work; what can be refused at once is an error. Readers given to
// it end with the request, so an upload is taken whole before the method
// returns, and only checked afterwards.
type Library interface {
	UploadBundle(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error)
	CreateBundle(ctx context.Context, owner string, req CreateBundleRequest) (domain.Task, error)
	// ExtractBundle makes the bundle's artifacts; force replaces artifacts of the same name.
	ExtractBundle(ctx context.Context, owner, id string, force bool) (domain.Task, error)
	RenameBundle(ctx context.Context, owner, id, name, description string) (domain.Task, error)
	DeleteBundle(ctx context.Context, owner, id string) (domain.Task, error)
	OpenBundle(ctx context.Context, id string) (io.ReadSeekCloser, string, error)

	UploadGoldenImage(ctx context.Context, owner, name, description, filename string, r io.Reader) (domain.Task, error)
	CaptureGoldenImage(ctx context.Context, owner string, req CaptureRequest) (domain.Task, error)
	// UpdateGoldenImage takes over name and description.
	UpdateGoldenImage(ctx context.Context, owner string, g domain.GoldenImage) (domain.Task, error)
	DeleteGoldenImage(ctx context.Context, owner, id string) (domain.Task, error)
	// OpenGoldenImage returns a zip with the raw image and the name to offer for it.
	OpenGoldenImage(ctx context.Context, id string) (io.ReadCloser, string, error)

	// A backup is one bundle with all artifacts.
	CreateBackup(ctx context.Context, owner string) (domain.Task, error)
	UploadBackup(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error)
	RestoreBackup(ctx context.Context, owner, id string) (domain.Task, error)
}

// CaptureLogs is what a Library may offer beyond: the log of a golden image's
// capture, secrets masked.
type CaptureLogs interface {
	CaptureLog(ctx context.Context, imageID string) (io.ReadCloser, error)
}

// Deployer makes OS volumes out of server profiles. What rest has checked
// before: the envelope, that hardware and plan exist, that no other profile
// has the hardware, and the attributes against their constraints.
type Deployer interface {
	CreateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error)
	UpdateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error)
	DeleteProfile(ctx context.Context, owner, id string) (domain.Task, error)
	// VolumeLog takes an id or a name. The log has four parts (spec section
	// 5.1), secrets masked; that of a failed deployment is there, too.
	VolumeLog(ctx context.Context, key string) (io.ReadCloser, error)
	VolumeStorage(ctx context.Context, volumeID string) (any, error)
	// DeleteVolume moves the volume to the trash; one that is there it destroys.
	DeleteVolume(ctx context.Context, owner, id string) (domain.Task, error)
	// RestoreVolume takes a volume out of the trash, for the profile if one is
	// named; force replaces the volume that the profile has.
	RestoreVolume(ctx context.Context, owner, id, profileURI string, force bool) (domain.Task, error)
}

// Appliance reports about the module it runs on. What it returns is encoded as
// JSON.
type Appliance interface {
	Health(ctx context.Context) domain.Health // its Summary without a token
	Inventory(ctx context.Context) any
	Network(ctx context.Context) any
	Storage(ctx context.Context) any
	Cluster(ctx context.Context) any
	// Logs are the newest lines, as text or as JSON lines; with follow the answer
	// goes on until ctx ends or it is closed.
	Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error)
	Syslog(ctx context.Context) (journal.Settings, error)
	SetSyslog(ctx context.Context, s journal.Settings) error
	// SupportDump writes a zip of at most limit bytes before packing; 0 is the
	// usual limit. No secret is in it.
	SupportDump(ctx context.Context, w io.Writer, limit int64) error
}

// LogQuery says which part of the log is wanted, and how.
type LogQuery struct {
	Lines  int
	Follow bool
	JSON   bool
}

// Info is what the appliance tells of itself in the interface's own resources.
type Info struct {
	Name       string // "<frame serial>, appliance <n>"
	Frame      string // serial number of the frame
	Bay        int
	Serial     string // of the module
	UUID       string // of the module
	Version    string // of Baystream
	Management string // IPv4 address, without prefix length
	Portal     string // IPv4 address on the deployment network
	IPv6       string // link-local address of the management port
}
