package domain

import "strings"

// Task is long work: accepted with 202, watched by clients, resumable by the
// appliance (spec section 2.3).
type Task struct {
	Resource
	ID                      string             `json:"id"`
	AssociatedResource      AssociatedResource `json:"associatedResource"`
	AssociatedTaskURI       string             `json:"associatedTaskUri"`
	ParentTaskURI           string             `json:"parentTaskUri"`
	CompletedSteps          int                `json:"completedSteps"`
	TotalSteps              int                `json:"totalSteps"`
	PercentComplete         int                `json:"percentComplete"`
	ComputedPercentComplete int                `json:"computedPercentComplete"`
	ExpectedDuration        int                `json:"expectedDuration"` // seconds
	Hidden                  bool               `json:"hidden"`
	Owner                   string             `json:"owner"` // user name
	ProgressUpdates         []ProgressUpdate   `json:"progressUpdates"`
	StateReason             string             `json:"stateReason"`
	TaskErrors              []TaskError        `json:"taskErrors"`
	TaskOutput              []string           `json:"taskOutput"`
	TaskState               string             `json:"taskState"`
	TaskStatus              string             `json:"taskStatus"`
	TaskType                string             `json:"taskType"` // User, Appliance
	UserInitiated           bool               `json:"userInitiated"`
	Data                    map[string]string  `json:"data"`
}

// States of a task.
const (
	TaskNew         = "New"
	TaskPending     = "Pending"
	TaskRunning     = "Running"
	TaskCompleted   = "Completed"
	TaskWarning     = "Warning"
	TaskFailed      = "Error"
	TaskInterrupted = "Interrupted"
)

// AssociatedResource is what a task works on.
type AssociatedResource struct {
	AssociationType  string `json:"associationType"` // MANAGED_BY
	ResourceCategory string `json:"resourceCategory"`
	ResourceName     string `json:"resourceName"`
	ResourceURI      string `json:"resourceUri"`
}

// ProgressUpdate is one line of a task's log.
type ProgressUpdate struct {
	ID           int    `json:"id"`
	StatusUpdate string `json:"statusUpdate"`
	Timestamp    string `json:"timestamp"`
}

// TaskError is a failure in the form of the interface (spec section 2.2); REST
// answers use it too.
type TaskError struct {
	ErrorCode          string         `json:"errorCode"`
	Message            string         `json:"message"`
	Details            string         `json:"details"`
	RecommendedActions []string       `json:"recommendedActions"`
	ErrorSource        string         `json:"errorSource"`
	NestedErrors       []TaskError    `json:"nestedErrors"`
	Data               map[string]any `json:"data"`
}

// EntityID implements Entity.
func (t *Task) EntityID() string { return t.ID }

// SetID implements Entity.
func (t *Task) SetID(id string) {
	t.ID = id
	t.identify(Tasks, id, "TaskResourceV2", "tasks")
}

// Title says what the task does; the name alone does not, when it is "Delete".
func (t *Task) Title() string {
	if t.Name == "Delete" && t.AssociatedResource.ResourceCategory != "" {
		kind := strings.TrimSuffix(t.AssociatedResource.ResourceCategory, "s")
		return t.Name + " " + strings.ReplaceAll(kind, "-", " ")
	}
	return t.Name
}

// Ended says whether the task will not change any more.
func (t *Task) Ended() bool {
	switch t.TaskState {
	case TaskCompleted, TaskWarning, TaskFailed, TaskInterrupted, "Killed", "Terminated":
		return true
	}
	return false
}

// User is somebody who may log in. It is stored, never served whole.
type User struct {
	Name         string `json:"userName"`
	PasswordHash string `json:"passwordHash"` // PHC string, argon2id
	Role         string `json:"role"`
	Created      string `json:"created"`
}

// Roles of users (spec section 6.5).
const (
	RoleInfrastructure = "Infrastructure administrator"
	RoleSoftware       = "Software administrator"
	RoleServer         = "Server administrator"
	RoleReadOnly       = "Read only"
)

// Session is a log-in. It is stored under the SHA-256 of its token, so the
// state does not hold the token itself.
type Session struct {
	User        string `json:"user"`
	Created     string `json:"created"`
	LastUsed    string `json:"lastUsed"` // to the minute
	IdleSeconds int    `json:"idleSeconds"`
}
