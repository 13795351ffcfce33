package domain

// BundleRef names an artifact that goes into a new bundle.
type BundleRef struct {
	ResourceURI string `json:"resourceUri"`
	ReadOnly    bool   `json:"readOnly"`
}

// CreateBundleRequest asks for a bundle of existing artifacts; what they depend
// on goes in with them.
type CreateBundleRequest struct {
	Name            string      `json:"name"`
	Description     string      `json:"description"`
	PlanScripts     []BundleRef `json:"planScripts"`
	BuildPlans      []BundleRef `json:"buildPlans"`
	DeploymentPlans []BundleRef `json:"deploymentPlans"`
	GoldenImages    []BundleRef `json:"goldenImages"`
}

// CaptureRequest asks for a golden image made from an OS volume.
type CaptureRequest struct {
	Name         string `json:"name"`
	Description  string `json:"description"`
	OSVolumeURI  string `json:"osVolumeURI"`
	BuildPlanURI string `json:"buildPlanUri"` // a capture build plan; empty: the bytes as they are
}
