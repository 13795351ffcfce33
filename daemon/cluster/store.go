package cluster

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"baystream/daemon/domain"
)

// Store is the whole state of a domain, a table per resource.
type Store struct {
	Client *clientv3.Client

	PlanScripts     *Table[domain.PlanScript, *domain.PlanScript]
	BuildPlans      *Table[domain.BuildPlan, *domain.BuildPlan]
	DeploymentPlans *Table[domain.DeploymentPlan, *domain.DeploymentPlan]
	GoldenImages    *Table[domain.GoldenImage, *domain.GoldenImage]
	ArtifactBundles *Table[domain.ArtifactBundle, *domain.ArtifactBundle]
	OSVolumes       *Table[domain.OSVolume, *domain.OSVolume]
	ServerHardware  *Table[domain.ServerHardware, *domain.ServerHardware]
	ServerProfiles  *Table[domain.ServerProfile, *domain.ServerProfile]
	Tasks           *Table[domain.Task, *domain.Task]

	Users       *KV[domain.User]        // by lower-case user name
	Sessions    *KV[domain.Session]     // by hash of the token
	Credentials *KV[domain.Credentials] // by volume id
}

// NewStore makes the tables over the state of c.
func NewStore(c *clientv3.Client) *Store {
	unique := func(kind string) Options { return Options{Kind: kind, UniqueNames: true} }
	return &Store{
		Client:          c,
		PlanScripts:     NewTable[domain.PlanScript](c, "plan-scripts", unique("plan script")),
		BuildPlans:      NewTable[domain.BuildPlan](c, "build-plans", unique("OS build plan")),
		DeploymentPlans: NewTable[domain.DeploymentPlan](c, "deployment-plans", unique("deployment plan")),
		GoldenImages:    NewTable[domain.GoldenImage](c, "golden-images", unique("golden image")),
		ArtifactBundles: NewTable[domain.ArtifactBundle](c, "artifact-bundles", unique("artifact bundle")),
		OSVolumes:       NewTable[domain.OSVolume](c, "os-volumes", Options{Kind: "OS volume"}),
		ServerHardware:  NewTable[domain.ServerHardware](c, "server-hardware", Options{Kind: "server hardware"}),
		ServerProfiles:  NewTable[domain.ServerProfile](c, "server-profiles", unique("server profile")),
		Tasks:           NewTable[domain.Task](c, "tasks", Options{Kind: "task"}),
		Users:           NewKV[domain.User](c, "users"),
		Sessions:        NewKV[domain.Session](c, "sessions"),
		Credentials:     NewKV[domain.Credentials](c, "credentials"),
	}
}
