package domain

import (
	"strings"

	"github.com/google/uuid"
)

// OSVolume is the clone that one server profile boots from.
type OSVolume struct {
	Resource
	OEVolumeID           string      `json:"oeVolumeId"`
	OEVolumeIQN          string      `json:"oeVolumeIQN"`
	OEVolumeIP           string      `json:"oeVolumeIp"` // portal address
	Size                 int64       `json:"size"`       // bytes
	StatelessServerURI   string      `json:"statelessServerUri"`
	GoldenVolumeURI      string      `json:"goldenVolumeUri"` // the golden image
	DeploymentClusterURI string      `json:"deploymentClusterUri"`
	DependentArtifacts   []Dependent `json:"dependentArtifacts"`

	// Ours.
	ServerProfileURI  string `json:"serverProfileUri"`
	ServerProfileName string `json:"serverProfileName"`
	ServerHardwareURI string `json:"serverHardwareUri"`
	DeploymentPlanURI string `json:"deploymentPlanUri"`
	InitiatorIQN      string `json:"initiatorIqn"`
	AllocatedBytes    int64  `json:"allocatedBytes,omitempty"` // mapped in the pool; filled on GET
	Expires           string `json:"expires,omitempty"`        // in the trash until about then: counted while the appliance runs
}

// States of an OS volume.
const (
	VolumeCreating      = "Creating"
	VolumePersonalising = "Personalising"
	VolumeExported      = "Exported"
	VolumeUnassigned    = "Unassigned"
	VolumeFailed        = "Failed"
	VolumeTrash         = "Trash"
	VolumeDestroying    = "Destroying"
)

// EntityID implements Entity.
func (v *OSVolume) EntityID() string { return v.OEVolumeID }

// SetID implements Entity.
func (v *OSVolume) SetID(id string) {
	v.OEVolumeID = id
	v.OEVolumeIQN = TargetIQN(id)
	v.identify(OSVolumes, id, "OeVolume", "os-volumes")
}

// Credentials are what one initiator needs to log in to one volume (RFC 7143
// section 12.1, CHAP). They are stored apart from the volume and never served.
type Credentials struct {
	VolumeID string `json:"volumeId"`
	User     string `json:"user"`
	Secret   string `json:"secret"`
}

// ServerHardware is a compute module.
type ServerHardware struct {
	Resource
	UUID          string   `json:"uuid"` // SMBIOS UUID, lower case
	SerialNumber  string   `json:"serialNumber"`
	Model         string   `json:"model"`
	Frame         string   `json:"frame"` // serial of the frame, empty if not known
	Bay           int      `json:"position"`
	MACs          []string `json:"macs"` // of its ports on the deployment network, lower case
	ServerProfile string   `json:"serverProfileUri"`
	Address       string   `json:"deploymentAddress"` // stable IPv4 address on the deployment network
	LastSeen      string   `json:"lastSeen,omitempty"`
	LastSeenAs    string   `json:"lastSeenAs,omitempty"` // what it did: "DHCP from iPXE", "boot script", ...
	Discovered    bool     `json:"discovered"`           // seen on the network before anybody registered it
	PowerState    string   `json:"powerState,omitempty"` // On, Off, PoweringOn, PoweringOff; told by the frame manager, not stored
}

// EntityID implements Entity.
func (s *ServerHardware) EntityID() string { return s.UUID }

// SetID implements Entity.
func (s *ServerHardware) SetID(id string) {
	s.UUID = strings.ToLower(id)
	s.identify(ServerHardwares, s.UUID, "server-hardware-13", "server-hardware")
}

// States of server hardware, as OneView names them.
const (
	NoProfileApplied = "NoProfileApplied"
	ApplyingProfile  = "ApplyingProfile"
	ProfileApplied   = "ProfileApplied"
	ProfileError     = "ProfileError"
)

// States of a server profile.
const (
	ProfileCreating = "Creating"
	ProfileUpdating = "Updating"
	ProfileNormal   = "Normal"
	ProfileFailed   = "Failed"
)

// HardwareState is the state of server hardware whose profile is in a state.
func HardwareState(profile string) string {
	switch profile {
	case ProfileCreating, ProfileUpdating:
		return ApplyingProfile
	case ProfileFailed:
		return ProfileError
	}
	return ProfileApplied
}

// OSDeploymentSettings assign a deployment plan to a profile (spec section 3).
type OSDeploymentSettings struct {
	OSDeploymentPlanURI string      `json:"osDeploymentPlanUri"`
	OSVolumeURI         string      `json:"osVolumeUri"`
	OSCustomAttributes  []Attribute `json:"osCustomAttributes"`
	ForceOSDeployment   bool        `json:"forceOsDeployment"` // consent to make the volume anew
	ReapplyState        string      `json:"reapplyState,omitempty"`
	ComplianceControl   string      `json:"complianceControl,omitempty"`
	DeployMethod        string      `json:"deployMethod,omitempty"`
	DeploymentMac       string      `json:"deploymentMac,omitempty"`
	DeploymentPortID    string      `json:"deploymentPortId,omitempty"`
}

// ServerProfile says what a server boots.
type ServerProfile struct {
	Resource
	ID                   string                `json:"id"`
	ServerHardwareURI    string                `json:"serverHardwareUri"`
	SerialNumber         string                `json:"serialNumber"`
	ISCSIInitiatorName   string                `json:"iscsiInitiatorName"`
	OSDeploymentSettings *OSDeploymentSettings `json:"osDeploymentSettings"`
	TaskURI              string                `json:"taskUri"`
}

// EntityID implements Entity.
func (p *ServerProfile) EntityID() string { return p.ID }

// SetID implements Entity.
func (p *ServerProfile) SetID(id string) {
	p.ID = id
	p.identify(ServerProfiles, id, "ServerProfileV12", "server-profiles")
}

// iqnPrefix is the naming authority of all our iSCSI names (RFC 7143 section
// 4.2.7.4): the year and month in which the project took the name.
const iqnPrefix = "iqn.2026-11.org.baystream"

// TargetIQN is the iSCSI name of the target of a volume; it never changes and
// does not depend on the appliance that serves it.
func TargetIQN(volumeID string) string { return iqnPrefix + ":" + strings.ToLower(volumeID) }

// InitiatorIQN is the iSCSI name given to a server.
func InitiatorIQN(serverUUID string) string {
	return iqnPrefix + ".server:" + strings.ToLower(serverUUID)
}

// ValidUUID says whether s is a UUID in the usual form.
func ValidUUID(s string) bool { _, err := uuid.Parse(s); return err == nil && len(s) == 36 }
