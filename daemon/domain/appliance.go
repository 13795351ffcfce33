package domain

// DeploymentGroup is what the interface calls the set of appliances that hold
// the same artifacts. There is one.
type DeploymentGroup struct {
	Resource
	ID                    string `json:"id"`
	ManagementNetworkName string `json:"managementNetworkname"`
	ManagementNetworkURI  string `json:"managementNetworkuri"`
}

// Ids that are the same in every domain, because there is one of each.
const (
	DeploymentGroupID  = "6d1b6f29-6f5e-4a4e-9d43-0f1f3c1f7b01"
	DeploymentServerID = "6d1b6f29-6f5e-4a4e-9d43-0f1f3c1f7b02"
)

// EntityID implements Entity.
func (g *DeploymentGroup) EntityID() string { return g.ID }

// SetID implements Entity.
func (g *DeploymentGroup) SetID(id string) {
	g.ID = id
	g.identify(DeploymentGroups, id, "DeploymentGroup", "deployment-groups")
}

// TheDeploymentGroup is the one there is. Its name is the one that the
// interface's documents show.
func TheDeploymentGroup() DeploymentGroup {
	g := DeploymentGroup{Resource: Resource{
		Name: "OSS", Description: "All appliances of this domain", Status: StatusOK, State: "Connected",
	}}
	g.SetID(DeploymentGroupID)
	return g
}

// DeploymentServer is all appliances as OneView sees them (spec section 3).
type DeploymentServer struct {
	Resource
	ID                     string `json:"id"`
	DeplManagersType       string `json:"deplManagersType"`
	ApplianceURI           string `json:"applianceUri"`
	PrimaryActiveAppliance string `json:"primaryActiveAppliance"`
	PrimaryClusterName     string `json:"primaryClusterName"`
	PrimaryIPv4            string `json:"primaryIPV4"`
	MgmtNetworkURI         string `json:"mgmtNetworkUri"`
}

// EntityID implements Entity.
func (d *DeploymentServer) EntityID() string { return d.ID }

// SetID implements Entity.
func (d *DeploymentServer) SetID(id string) {
	d.ID = id
	d.identify(DeploymentServers, id, "DeploymentServer", "deployment-managers")
}

// ImageStreamerAppliances is the collection of the appliances.
const ImageStreamerAppliances = DeploymentServers + "/image-streamer-appliances"

// ApplianceView is one appliance as OneView sees it (spec section 3).
type ApplianceView struct {
	Resource
	ID                    string `json:"id"`
	ApplianceSerialNumber string `json:"applianceSerialNumber"`
	ApplianceUUID         string `json:"applianceUUID"`
	ApplianceURI          string `json:"applianceUri"`
	ApplianceIPv6Address  string `json:"applianceIpv6Address"`
	AtlasVersion          string `json:"atlasVersion"`
	ImageStreamerVersion  string `json:"imageStreamerVersion"`
	CIMBay                int    `json:"cimBay"`
	CIMEnclosureName      string `json:"cimEnclosureName"`
	CIMEnclosureURI       string `json:"cimEnclosureUri"`
	ClaimedByOV           bool   `json:"claimedByOV"`
	ClusterIPv4Address    string `json:"clusterIpv4Address"`
	DataIPv4Address       string `json:"amvmDataIPv4Address"`
	MgmtIPv4Address       string `json:"amvmMgmtIPv4Address"`
}

// EntityID implements Entity.
func (a *ApplianceView) EntityID() string { return a.ID }

// SetID implements Entity.
func (a *ApplianceView) SetID(id string) {
	a.ID = id
	a.identify(ImageStreamerAppliances, id, "ImageStreamerAppliance", "image-streamer-appliances")
	a.ApplianceURI = "/rest/image-streamer-appliances/" + id
}

// OSDeploymentPlan is a deployment plan as OneView sees it (spec section 3).
type OSDeploymentPlan struct {
	Resource
	ID                      string                `json:"id"`
	Architecture            string                `json:"architecture"`
	DeploymentAppliance     string                `json:"deploymentAppliance"`
	DeploymentApplianceIPv4 string                `json:"deploymentApplianceIpv4"`
	DeploymentType          string                `json:"deploymentType"`
	OSType                  string                `json:"osType"`
	OSDPSize                string                `json:"osdpSize"` // MiB, as a decimal number
	NativePlanURI           string                `json:"nativePlanUri"`
	AdditionalParameters    []AdditionalParameter `json:"additionalParameters"`
}

// AdditionalParameter is a custom attribute in an OSDeploymentPlan.
type AdditionalParameter struct {
	Name          string `json:"name"`
	Value         string `json:"value"`
	Description   string `json:"description"`
	CAID          string `json:"caId"`
	CAType        string `json:"caType"`
	CAConstraints string `json:"caConstraints"`
	CAEditable    bool   `json:"caEditable"`
}

// EntityID implements Entity.
func (o *OSDeploymentPlan) EntityID() string { return o.ID }

// SetID implements Entity.
func (o *OSDeploymentPlan) SetID(id string) {
	o.ID = id
	o.identify(OSDeploymentPlans, id, "Osdp", "os-deployment-plans")
}
