package rest

import "net/http"

// routes lists everything that is served and who may use it.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, need access, h handler) { mux.Handle(pattern, s.gate(need, h)) }

	// Log-in and version.
	on("GET /rest/version", public, s.version)
	on("POST /rest/login-sessions", public, s.login)
	on("PUT /rest/login-sessions", anyone, s.reuseSession)
	on("GET /rest/login-sessions", anyone, s.reuseSession)
	on("DELETE /rest/login-sessions", anyone, s.logout)
	on("GET /rest/sessions/idle-timeout", anyone, s.idleTimeout)
	on("POST /rest/sessions/idle-timeout", anyone, s.setIdleTimeout)

	// Artifacts.
	on("GET /rest/plan-scripts", anyone, s.listPlanScripts)
	on("POST /rest/plan-scripts", artifacts, s.createPlanScript)
	on("GET /rest/plan-scripts/{id}", anyone, s.getPlanScript)
	on("PUT /rest/plan-scripts/{id}", artifacts, s.updatePlanScript)
	on("DELETE /rest/plan-scripts/{id}", artifacts, s.deletePlanScript)
	on("POST /rest/plan-scripts/differences/{id}", anyone, s.planScriptDifferences)
	on("GET /rest/plan-scripts/{id}/usedby/readonly", anyone, s.planScriptUsedBy)

	on("GET /rest/build-plans", anyone, s.listBuildPlans)
	on("POST /rest/build-plans", artifacts, s.createBuildPlan)
	on("GET /rest/build-plans/{id}", anyone, s.getBuildPlan)
	on("PUT /rest/build-plans/{id}", artifacts, s.updateBuildPlan)
	on("DELETE /rest/build-plans/{id}", artifacts, s.deleteBuildPlan)

	on("GET /rest/deployment-plans", anyone, s.listDeploymentPlans)
	on("POST /rest/deployment-plans", artifacts, s.createDeploymentPlan)
	on("GET /rest/deployment-plans/{id}", anyone, s.getDeploymentPlan)
	on("PUT /rest/deployment-plans/{id}", artifacts, s.updateDeploymentPlan)
	on("DELETE /rest/deployment-plans/{id}", artifacts, s.deleteDeploymentPlan)
	on("GET /rest/deployment-plans/{id}/usedby", anyone, s.deploymentPlanUsedBy)
	on("GET /rest/deployment-plans/{id}/osdp", anyone, s.getOSDP)

	on("GET /rest/golden-images", anyone, s.listGoldenImages)
	on("POST /rest/golden-images", artifacts, s.createGoldenImage)
	on("GET /rest/golden-images/{id}", anyone, s.getGoldenImage)
	on("PUT /rest/golden-images/{id}", artifacts, s.updateGoldenImage)
	on("DELETE /rest/golden-images/{id}", artifacts, s.deleteGoldenImage)
	on("GET /rest/golden-images/download/{id}", artifacts, s.downloadGoldenImage)
	on("GET /rest/golden-images/archive/{id}", anyone, s.goldenImageLog)

	on("GET /rest/artifact-bundles", anyone, s.listBundles)
	on("POST /rest/artifact-bundles", artifacts, s.createBundle)
	on("GET /rest/artifact-bundles/{id}", anyone, s.getBundle)
	on("PUT /rest/artifact-bundles/{id}", artifacts, s.updateBundle)
	on("DELETE /rest/artifact-bundles/{id}", artifacts, s.deleteBundle)
	on("PUT /rest/artifact-bundles/{id}/{action}", artifacts, s.bundleAction)
	on("GET /rest/artifact-bundles/download/{id}", artifacts, s.downloadBundle)
	on("GET /rest/artifact-bundles/backups", artifacts, s.listBackups)
	on("POST /rest/artifact-bundles/backups", artifacts, s.createBackup)
	on("GET /rest/artifact-bundles/backups/{id}", artifacts, s.getBackup)
	on("PUT /rest/artifact-bundles/backups/{id}", artifacts, s.restoreBackup)
	on("POST /rest/artifact-bundles/backups/archive", artifacts, s.uploadBackup)
	on("GET /rest/artifact-bundles/backups/archive/{id}", artifacts, s.downloadBackup)

	// What the artifacts become.
	on("GET /rest/os-volumes", anyone, s.listVolumes)
	on("GET /rest/os-volumes/{id}", anyone, s.getVolume)
	on("DELETE /rest/os-volumes/{id}", profiles, s.deleteVolume)
	on("PUT /rest/os-volumes/{id}/restore", profiles, s.restoreVolume)
	on("GET /rest/os-volumes/archive/{id}", anyone, s.volumeLog)
	on("GET /rest/os-volumes/{id}/{part}", anyone, s.volumePart)
	on("GET /rest/stateless-servers", anyone, s.listStatelessServers)
	on("GET /rest/stateless-servers/{id}", anyone, s.getStatelessServer)

	// What OneView has.
	on("GET /rest/server-hardware", anyone, s.listHardware)
	on("POST /rest/server-hardware", profiles, s.createHardware)
	on("GET /rest/server-hardware/{id}", anyone, s.getHardware)
	on("PUT /rest/server-hardware/{id}", profiles, s.updateHardware)
	on("DELETE /rest/server-hardware/{id}", profiles, s.deleteHardware)
	on("GET /rest/server-profiles", anyone, s.listProfiles)
	on("POST /rest/server-profiles", profiles, s.createProfile)
	on("GET /rest/server-profiles/available-targets", anyone, s.availableTargets)
	on("GET /rest/server-profiles/{id}", anyone, s.getProfile)
	on("PUT /rest/server-profiles/{id}", profiles, s.updateProfile)
	on("DELETE /rest/server-profiles/{id}", profiles, s.deleteProfile)
	on("GET /rest/os-deployment-plans", anyone, s.listOSDPs)
	on("GET /rest/os-deployment-plans/{id}", anyone, s.getOSDP)
	on("GET /rest/deployment-servers", anyone, s.listDeploymentServers)
	on("POST /rest/deployment-servers", admin, s.createDeploymentServer)
	on("GET /rest/deployment-servers/{id}", anyone, s.getDeploymentServer)
	on("PUT /rest/deployment-servers/{id}", admin, s.updateDeploymentServer)
	on("DELETE /rest/deployment-servers/{id}", admin, s.deleteDeploymentServer)
	on("GET /rest/deployment-servers/network", anyone, s.deploymentServerNetwork)
	on("GET /rest/deployment-servers/image-streamer-appliances", anyone, s.listAppliances)
	on("GET /rest/deployment-servers/image-streamer-appliances/{id}", anyone, s.getAppliance)
	on("GET /rest/deployment-groups", anyone, s.listGroups)
	on("GET /rest/deployment-groups/{id}", anyone, s.getGroup)
	on("GET /rest/tasks", anyone, s.listTasks)
	on("GET /rest/tasks/{id}", anyone, s.getTask)

	// Ours.
	on("GET /rest/baystream/ca", public, s.ca)
	on("GET /rest/baystream/setup", public, s.setupState)
	on("POST /rest/baystream/setup", public, s.setup)
	on("GET /rest/baystream/health", public, s.health)
	on("GET /rest/baystream/hw", anyone, s.report(Appliance.Inventory))
	on("GET /rest/baystream/net", anyone, s.report(Appliance.Network))
	on("GET /rest/baystream/storage", anyone, s.report(Appliance.Storage))
	on("GET /rest/baystream/cluster", anyone, s.report(Appliance.Cluster))
	on("GET /rest/baystream/logs", admin, s.logs)
	on("GET /rest/baystream/users", admin, s.listUsers)
	on("POST /rest/baystream/users", admin, s.createUser)
	on("PUT /rest/baystream/users/{name}", anyone, s.setPassword)
	on("GET /rest/baystream/support-dump", admin, s.supportDump)
	on("DELETE /rest/baystream/users/{name}", admin, s.deleteUser)

	return s.notServed(mux)
}
