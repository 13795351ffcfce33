package manager

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

const root = "/redfish/v1"

// handler is the table of all routes.
func (m *Manager) handler() http.Handler {
	mux := http.NewServeMux()
	open := func(pattern string, do http.HandlerFunc) { mux.HandleFunc(pattern, do) }
	open("GET /redfish", func(w http.ResponseWriter, _ *http.Request) { send(w, object{"v1": root + "/"}) })
	open("GET "+root+"/{$}", m.getRoot)
	open("GET "+root, m.getRoot)
	open("POST "+root+"/SessionService/Sessions", m.postSession)

	read := func(path string, do http.HandlerFunc) { mux.Handle("GET "+root+path, m.needs(ReadOnly, do)) }
	read("/SessionService", m.getSessionService)
	read("/SessionService/Sessions", m.getSessions)
	read("/SessionService/Sessions/{id}", m.getSession)
	read("/Chassis", m.getChassisCollection)
	read("/Chassis/{id}", m.owned(m.getChassis))
	read("/Chassis/{id}/Sensors", m.owned(m.getSensors))
	read("/Chassis/{id}/Sensors/{sensor}", m.owned(m.getSensor))
	read("/Systems", m.getSystems)
	read("/Systems/{id}", m.owned(m.getSystem))
	read("/Managers", m.getManagers)
	read("/Managers/{id}", m.owned(m.getManager))
	read("/EventService", m.getEventService)
	read("/EventService/SSE", m.getEvents)
	mux.Handle("POST "+root+"/Systems/{id}/Actions/ComputerSystem.Reset", m.needs(Operator, m.owned(m.postReset)))
	mux.Handle("DELETE "+root+"/SessionService/Sessions/{id}", m.needs(ReadOnly, m.deleteSession))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "ResourceMissingAtURI", "The resource at the URI "+r.URL.Path+" was not found.")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("OData-Version", "4.0")
		mux.ServeHTTP(w, r)
	})
}

type object = map[string]any

func send(w http.ResponseWriter, v any) { sendStatus(w, http.StatusOK, v) }

func sendStatus(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // an error means that the client is gone
}

// fail answers with an error of the registry Base (DSP0266 section 8.6).
func fail(w http.ResponseWriter, status int, id, message string) {
	id = "Base.1.8." + id
	sendStatus(w, status, object{"error": object{"code": id, "message": message,
		"@Message.ExtendedInfo": []object{{"@odata.type": "#Message.v1_1_1.Message", "MessageId": id, "Message": message}}}})
}

// needs lets a request pass whose user may do so much.
func (m *Manager) needs(role Role, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		has, ok := m.authenticate(r)
		switch {
		case !ok:
			w.Header().Set("WWW-Authenticate", `Basic realm="frame manager"`)
			fail(w, http.StatusUnauthorized, "NoValidSession", "There is no valid session established with the implementation: log in, or send a user and password.")
		case role == Operator && has == ReadOnly:
			fail(w, http.StatusForbidden, "InsufficientPrivilege", "The user may read, but not switch power.")
		default:
			next(w, r)
		}
	})
}

// authenticate takes a session's token, or Basic authentication.
func (m *Manager) authenticate(r *http.Request) (Role, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if token := r.Header.Get("X-Auth-Token"); token != "" {
		s, ok := m.sessions[token]
		return m.users[s.user].role, ok
	}
	name, password, ok := r.BasicAuth()
	if !ok || !m.valid(name, password) {
		return "", false
	}
	return m.users[name].role, true
}

func (m *Manager) valid(name, password string) bool { // under mu
	u, known := m.users[name]
	sum := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(sum[:], u.password[:]) == 1 && known
}

func (m *Manager) postSession(w http.ResponseWriter, r *http.Request) {
	var in struct{ UserName, Password string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "MalformedJSON", "The request body is not the JSON of a session: "+err.Error())
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.valid(in.UserName, in.Password) {
		fail(w, http.StatusUnauthorized, "ResourceAtUriUnauthorized", "User name or password is wrong.")
		return
	}
	const most = 256 // sessions; a client that never logs out must not fill the memory
	if len(m.sessions) >= most {
		fail(w, http.StatusServiceUnavailable, "SessionLimitExceeded", "There are too many sessions: delete some.")
		return
	}
	token, s := rand.Text(), session{rand.Text()[:12], in.UserName}
	m.sessions[token] = s
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", root+"/SessionService/Sessions/"+s.id)
	sendStatus(w, http.StatusCreated, s.resource())
}

func (s session) resource() object {
	return object{"@odata.id": root + "/SessionService/Sessions/" + s.id, "@odata.type": "#Session.v1_1_0.Session",
		"Id": s.id, "Name": "Session", "UserName": s.user}
}

func (m *Manager) getSessionService(w http.ResponseWriter, _ *http.Request) {
	send(w, object{"@odata.id": root + "/SessionService", "@odata.type": "#SessionService.v1_1_0.SessionService",
		"Id": "SessionService", "Name": "Sessions", "ServiceEnabled": true, "Sessions": link("/SessionService/Sessions")})
}

func (m *Manager) getSessions(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, s := range m.sessions {
		ids = append(ids, "/SessionService/Sessions/"+s.id)
	}
	send(w, collection("/SessionService/Sessions", "SessionCollection", "Sessions", ids))
}

func (m *Manager) getSession(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		if s.id == r.PathValue("id") {
			send(w, s.resource())
			return
		}
	}
	missing(w, r)
}

func (m *Manager) deleteSession(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for token, s := range m.sessions {
		if s.id == r.PathValue("id") {
			delete(m.sessions, token)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	missing(w, r)
}

func missing(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "ResourceMissingAtURI", "The resource at the URI "+r.URL.Path+" was not found.")
}

// owned passes a request on to the manager that the resource belongs to.
func (m *Manager) owned(mine http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, other := m.peerOf(r.PathValue("id"))
		if !other {
			mine(w, r)
			return
		}
		to, err := url.Parse(p.URL)
		if err != nil {
			fail(w, http.StatusInternalServerError, "InternalError", err.Error())
			return
		}
		proxy := &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(to)
				pr.Out.Header.Del("X-Auth-Token")
				pr.Out.SetBasicAuth(p.User, p.Pass)
			},
			Transport:      p.Client.Transport,
			ModifyResponse: func(r *http.Response) error { r.Header.Del("OData-Version"); return nil }, // ours is there
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				fail(w, http.StatusBadGateway, "CouldNotEstablishConnection",
					fmt.Sprintf("The manager of frame %s cannot be reached: %s. Look at the link between the frames.", p.Frame, strings.TrimSpace(err.Error())))
			},
		}
		proxy.ServeHTTP(w, r)
	}
}
