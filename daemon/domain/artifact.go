package domain

import "cmp"

// Collections are the uris of the resource collections.
const (
	PlanScripts       = "/rest/plan-scripts"
	BuildPlans        = "/rest/build-plans"
	DeploymentPlans   = "/rest/deployment-plans"
	GoldenImages      = "/rest/golden-images"
	ArtifactBundles   = "/rest/artifact-bundles"
	OSVolumes         = "/rest/os-volumes"
	DeploymentGroups  = "/rest/deployment-groups"
	DeploymentServers = "/rest/deployment-servers"
	OSDeploymentPlans = "/rest/os-deployment-plans"
	ServerHardwares   = "/rest/server-hardware"
	ServerProfiles    = "/rest/server-profiles"
	Tasks             = "/rest/tasks"
	StatelessServers  = "/rest/stateless-servers"
)

// Dependent names an artifact that uses, or is used by, another.
type Dependent struct {
	Name      string `json:"name"`
	URI       string `json:"uri"`
	ServerIQN string `json:"serverIqn,omitempty"`
}

// PlanScript is one script of the plan language (spec sections 2.4 and 5).
type PlanScript struct {
	Resource
	ID                 string      `json:"id"`
	PlanType           string      `json:"planType"` // deploy, capture, general
	Content            string      `json:"content"`
	CustomAttributes   string      `json:"customAttributes"` // JSON [{"name","value"}] in a string, extracted from Content
	HPProvided         bool        `json:"hpProvided"`
	DependentArtifacts []Dependent `json:"dependentArtifacts"`
}

// EntityID implements Entity.
func (p *PlanScript) EntityID() string { return p.ID }

// SetID implements Entity.
func (p *PlanScript) SetID(id string) {
	p.ID = id
	p.identify(PlanScripts, id, "PlanScript", "plan-scripts")
}

// BuildStep runs one plan script.
type BuildStep struct {
	SerialNumber   string  `json:"serialNumber"` // "1", "2", ...
	Parameters     *string `json:"parameters"`   // always null in practice (spec 4.4)
	PlanScriptName string  `json:"planScriptName"`
	PlanScriptURI  string  `json:"planScriptUri"`
}

// Attribute is a custom attribute of a build plan, of a deployment plan (with
// ID, Editable and Visible) or of a server profile.
type Attribute struct {
	ID          string `json:"id,omitempty"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Type        string `json:"type"` // string, number, option, password, hostname, fqdn, ipv4, nic; echoed as sent
	Value       string `json:"value"`
	Constraints string `json:"constraints"` // JSON object in a string
	Editable    *bool  `json:"editable,omitempty"`
	Visible     *bool  `json:"visible,omitempty"`
}

// BuildPlan is an ordered list of plan scripts.
type BuildPlan struct {
	Resource
	BuildPlanID        string      `json:"buildPlanid"`
	OEBuildPlanType    string      `json:"oeBuildPlanType"` // deploy or capture
	BuildStep          []BuildStep `json:"buildStep"`
	CustomAttributes   []Attribute `json:"customAttributes"`
	HPProvided         bool        `json:"hpProvided"`
	DependentArtifacts []Dependent `json:"dependentArtifacts"`
}

// EntityID implements Entity.
func (p *BuildPlan) EntityID() string { return p.BuildPlanID }

// SetID implements Entity.
func (p *BuildPlan) SetID(id string) {
	p.BuildPlanID = id
	p.identify(BuildPlans, id, "OeBuildPlanV5", "build-plans")
}

// DeploymentPlan joins a golden image, a build plan and attribute values.
type DeploymentPlan struct {
	Resource
	ID               string      `json:"id"`
	GoldenImageURI   string      `json:"goldenImageURI"` // empty: an empty volume of attribute VolumeSize
	OEBuildPlanURI   string      `json:"oeBuildPlanURI"`
	HPProvided       bool        `json:"hpProvided"`
	CustomAttributes []Attribute `json:"customAttributes"`
}

// EntityID implements Entity.
func (p *DeploymentPlan) EntityID() string { return p.ID }

// SetID implements Entity.
func (p *DeploymentPlan) SetID(id string) {
	p.ID = id
	p.identify(DeploymentPlans, id, "OEDeploymentPlanV5", "deployment-plans")
}

// GoldenImage is a generalised disk image that OS volumes are cloned from.
type GoldenImage struct {
	Resource
	ID                     string      `json:"id"`
	Size                   int64       `json:"size"`     // KiB of the expanded image; docs/api.md says why
	CheckSum               string      `json:"checkSum"` // SHA-256 of the file as it was sent, which names the stored object
	ReadOnly               bool        `json:"readOnly"`
	ImageCapture           bool        `json:"imageCapture"`
	ImportedFromBundle     bool        `json:"importedFromBundle"`
	BundleName             string      `json:"bundleName"`
	BundleURI              string      `json:"bundleURI"`
	ArtifactBundleCategory string      `json:"artifactBundleCategory"`
	OSVolumeURI            string      `json:"osVolumeURI"`
	OSVolumeName           string      `json:"osVolumeName"`
	OSVolumeCategory       string      `json:"osVolumeCategory"`
	BuildPlanURI           string      `json:"buildPlanUri"`
	BuildPlanName          string      `json:"buildPlanName"`
	BuildPlanCategory      string      `json:"buildPlanCategory"`
	DependentArtifacts     []Dependent `json:"dependentArtifacts"`

	// Ours: where the bytes are.
	SizeBytes     int64      `json:"sizeBytes"`     // expanded, bytes
	ContentDigest string     `json:"contentDigest"` // of the expanded image (storage.Digest)
	ObjectBytes   int64      `json:"objectBytes"`   // the file as it was sent
	Format        string     `json:"format"`        // of that file: zip, raw, zstd, gzip, qcow2
	Presence      []Presence `json:"presence"`      // which appliance holds it, verified when

	// PoolID is what the expanded image is called in the pool; empty: like the
	// image. Contents that replace others come beside them, under a new name.
	PoolID string `json:"poolId,omitempty"`
}

// InPool is what the expanded image is called in the pool.
func (g GoldenImage) InPool() string { return cmp.Or(g.PoolID, g.ID) }

// Presence says that an appliance holds an artifact.
type Presence struct {
	Appliance string `json:"appliance"` // "<frame serial>, appliance <n>"
	Verified  string `json:"verified"`  // time of the last checksum that held
	InPool    bool   `json:"inPool"`    // expanded, ready to be cloned
}

// EntityID implements Entity.
func (g *GoldenImage) EntityID() string { return g.ID }

// SetID implements Entity.
func (g *GoldenImage) SetID(id string) {
	g.ID = id
	g.identify(GoldenImages, id, "GoldenImage", "golden-images")
}

// BundleMember is one entry of an artifact bundle's contents; which id and
// name members it has depends on the list it stands in (spec section 2.4).
type BundleMember struct {
	BpID               string `json:"bpID,omitempty"`
	BuildPlanName      string `json:"buildPlanName,omitempty"`
	PsID               string `json:"psID,omitempty"`
	PlanScriptName     string `json:"planScriptName,omitempty"`
	DpID               string `json:"dpId,omitempty"`
	DeploymentPlanName string `json:"deploymentplanName,omitempty"`
	GoldenImageName    string `json:"goldenImageName,omitempty"` // of a deployment plan
	OebpName           string `json:"oebpName,omitempty"`
	GiID               string `json:"giID,omitempty"`
	GoldenimageName    string `json:"goldenimageName,omitempty"` // of a golden image
	Description        string `json:"description"`
	ReadOnly           bool   `json:"readOnly"`
}

// ArtifactBundle is an uploaded or created bundle.
type ArtifactBundle struct {
	Resource
	ArtifactsBundleID      string         `json:"artifactsbundleID"`
	ArtifactsCount         int            `json:"artifactsCount"`
	BackupService          bool           `json:"backupService"`
	RecoverBundle          bool           `json:"recoverBundle"`
	ImportBundle           bool           `json:"importbundle"`
	ReadOnly               bool           `json:"readOnly"`
	Checksum               string         `json:"checksum"` // SHA-256 of the zip; "checkSum" says the same for Go clients
	CheckSum               string         `json:"checkSum"`
	DownloadURI            string         `json:"downloadURI"`
	LastBackUpDownloadTime string         `json:"lastBackUpDownloadTime"`
	Size                   int64          `json:"size"` // bytes of the zip
	BuildPlans             []BundleMember `json:"buildPlans"`
	DeploymentPlans        []BundleMember `json:"deploymentPlans"`
	GoldenImage            []BundleMember `json:"goldenimage"`
	PlanScripts            []BundleMember `json:"planScripts"`
}

// EntityID implements Entity.
func (b *ArtifactBundle) EntityID() string { return b.ArtifactsBundleID }

// SetID implements Entity.
func (b *ArtifactBundle) SetID(id string) {
	b.ArtifactsBundleID = id
	b.DownloadURI = ArtifactBundles + "/download/" + id
	b.identify(ArtifactBundles, id, "ArtifactsBundle", "artifact-bundles")
}

func (r *Resource) identify(collection, id, typ, category string) {
	r.URI = collection + "/" + id
	r.Category = category
	if r.Type == "" {
		r.Type = typ
	}
}

// ScriptAttribute is a custom attribute found in a plan script's text; Value
// is the default that the text gives it (spec section 5.2).
type ScriptAttribute struct {
	Name       string `json:"name"`
	Value      string `json:"value"`
	HasDefault bool   `json:"-"` // tells "@name:@" from "@name@"; a Value that is not empty is a default too
}
