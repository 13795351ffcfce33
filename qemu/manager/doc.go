// Package manager is a frame's management controller for a virtual frame: it
// knows what is in the bays, switches their power, and tells who listens what
// changed, by Redfish (DSP0266) over HTTPS.
//
// A Manager answers for one frame. Frames that are linked have one Manager
// each; they know one another as Peers, and a request for a resource of another
// frame is passed on to the manager there, as are its events to those who
// listen here. A resource belongs to the frame whose serial number its id
// begins with.
//
// Chassis are the frame (an enclosure) and its bays; Systems are the computers
// in the bays, by serial number. A reset is answered when it has happened: after
// ForceOff with 204 the module has no power any more.
package manager
