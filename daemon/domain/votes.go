package domain

// Roles of a module.
const (
	RoleOfAppliance = "appliance"
	RoleOfWitness   = "witness" // a vote, no volumes
)

// VotesReport says which votes exist and what the next loss would do, below
// /rest/baystream/votes.
type VotesReport struct {
	Status  string       `json:"status"`
	Verdict string       `json:"verdict"` // in a sentence
	Active  string       `json:"active"`  // title of the active appliance; empty: none
	Voters  int          `json:"voters"`
	Healthy int          `json:"healthy"` // voters that answer
	Needed  int          `json:"needed"`  // for a majority
	Members []VoteMember `json:"members"`
	Groups  []VoteGroup  `json:"groups"` // storage groups; empty without a pair
}

// VoteMember is a member of the domain state.
type VoteMember struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Role    string `json:"role"`
	Vote    bool   `json:"vote"` // false: a live copy
	Leader  bool   `json:"leader"`
	Healthy bool   `json:"healthy"`
	Active  bool   `json:"active"`
	Loss    string `json:"loss"` // what its loss would do now
}

// VoteGroup is where a storage group is.
type VoteGroup struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
	Home  string `json:"home"`
	Epoch uint64 `json:"epoch"`
	State string `json:"state"` // for people
}
