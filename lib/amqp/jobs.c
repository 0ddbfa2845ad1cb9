/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.jobs"
#include <mqfs/log.h>

#include "connection.h"
#include "watchdog.h"

/*
 * The line of jobs in front of a connection. A job leaves it once, under the lock: taken by the owner, who runs
 * it, or by the watchdog, who fails it. One that may block while it runs stays in sight (running), so that the
 * watchdog can answer for it meanwhile; the two agree by running_answered on who does.
 */

/* Jobs between two looks at what has come. */
#define JOBS_A_ROUND 64

void connection_wake(struct connection *connection)
{
	uint64_t one = 1;

	/* It can only fail when the counter is full, and then the owner is woken anyway. */
	if (write(connection->wake_fd, &one, sizeof(one)) < 0)
		log_debug("%s: eventfd: %m", connection->role->name);
}

/* Under the lock: may the job stand in line? */
static bool takes(const struct connection *connection, const struct job *job)
{
	return connection->status.connected || connection->role->lazy || job->anytime || job->away_result == 0;
}

void connection_submit(struct connection *connection, struct job *job)
{
	int64_t due_ms = job->deadline_ms;
	bool sleeping = false;

	pthread_mutex_lock(&connection->lock);
	if (connection->stopping || !takes(connection, job)) {
		job->late_result = connection->stopping ? -ESHUTDOWN : job->away_result;
		DL_APPEND(connection->refused, job);
		due_ms = 0;
	} else {
		DL_APPEND(connection->jobs, job);
		sleeping = connection->sleeping;
		connection->sleeping = false;
	}
	pthread_mutex_unlock(&connection->lock);
	if (sleeping)
		connection_wake(connection);
	watchdog_notify(connection->watchdog, due_ms);
}

void connection_requeue(struct connection *connection, struct job *job)
{
	int64_t due_ms = job->deadline_ms;

	pthread_mutex_lock(&connection->lock);
	DL_PREPEND(connection->jobs, job);
	pthread_mutex_unlock(&connection->lock);
	watchdog_notify(connection->watchdog, due_ms);
}

/* The first job that can be run now, or NULL. */
static struct job *next_job(struct connection *connection, bool connected)
{
	struct job *job;

	if (connected && connection->role->ready && !connection->role->ready(connection->arg))
		return NULL;
	pthread_mutex_lock(&connection->lock);
	job = connection->jobs;
	while (!connected && job && !job->anytime)
		job = job->next;
	if (job) {
		DL_DELETE(connection->jobs, job);
		if (job->overdue) {
			connection->running = job;
			connection->running_answered = false;
		}
	}
	pthread_mutex_unlock(&connection->lock);
	return job;
}

void connection_run_jobs(struct connection *connection)
{
	struct job *job;

	for (int i = 0; i < JOBS_A_ROUND; i++) {
		if (connection_is_behind(connection))
			connection_read(connection);
		job = connection->failed ? NULL : next_job(connection, connection->state != NULL);
		if (!job)
			return;
		job->run(job, connection->arg);
	}
}

bool connection_answer(struct connection *connection, struct job *job)
{
	bool unanswered = true;

	pthread_mutex_lock(&connection->lock);
	if (connection->running == job) {
		while (connection->running_busy)
			pthread_cond_wait(&connection->answered, &connection->lock);
		unanswered = !connection->running_answered;
		connection->running = NULL;
	}
	pthread_mutex_unlock(&connection->lock);
	return unanswered;
}

static void fail_jobs(struct job *jobs, int result, const char *reason)
{
	struct job *job, *tmp;

	DL_FOREACH_SAFE(jobs, job, tmp)
	{
		DL_DELETE(jobs, job);
		job->fail(job, result != 0 ? result : job->late_result, reason);
	}
}

void connection_fail_jobs(struct connection *connection)
{
	struct job *left;

	pthread_mutex_lock(&connection->lock);
	left = connection->jobs;
	connection->jobs = NULL;
	connection->status.connected = false;
	pthread_mutex_unlock(&connection->lock);
	fail_jobs(left, -ESHUTDOWN, "shutting down");
}

bool connection_drain(struct connection *connection)
{
	struct job *left = connection->refused;

	connection->refused = NULL;
	fail_jobs(left, -ESHUTDOWN, "shutting down");
	return left != NULL;
}

/* ---- the watchdog's side ---- */

static void earlier(int64_t *next_ms, int64_t due_ms)
{
	if (due_ms < *next_ms)
		*next_ms = due_ms;
}

static struct job *take_late(struct connection *connection, int64_t now_ms, int64_t *next_ms)
{
	struct job *late = NULL, *job, *tmp;

	DL_FOREACH_SAFE(connection->jobs, job, tmp)
	{
		if (job->deadline_ms > now_ms) {
			earlier(next_ms, job->deadline_ms);
			continue;
		}
		DL_DELETE(connection->jobs, job);
		DL_APPEND(late, job);
	}
	return late;
}

static struct job *take_overdue(struct connection *connection, int64_t now_ms, int64_t *next_ms)
{
	struct job *job = connection->running;

	if (!job || connection->running_answered)
		return NULL;
	if (job->deadline_ms > now_ms) {
		earlier(next_ms, job->deadline_ms);
		return NULL;
	}
	connection->running_answered = true;
	connection->running_busy = true;
	return job;
}

static void guard_socket(struct connection *connection, int64_t now_ms, int64_t *next_ms)
{
	int64_t due_ms = atomic_load(&connection->armed_ms);

	if (connection->stopping)
		earlier(&due_ms, connection->stopping_ms + CONNECTION_STOP_MS);
	if (due_ms > now_ms) {
		earlier(next_ms, due_ms);
		return;
	}
	log_debug("%s: a call outlasted its deadline", connection->role->name);
	atomic_store(&connection->armed_ms, MQFS_NEVER);
	connection->stopping_ms = now_ms;
	if (connection->watch_fd >= 0)
		shutdown(connection->watch_fd, SHUT_RDWR);
	if (connection->stopping)
		earlier(next_ms, now_ms + CONNECTION_STOP_MS);
}

int64_t connection_watch(struct connection *connection, int64_t now_ms)
{
	struct job *late, *refused, *overdue;
	int64_t next_ms = MQFS_NEVER;
	char reason[sizeof(connection->status.reason)];

	pthread_mutex_lock(&connection->lock);
	late = take_late(connection, now_ms, &next_ms);
	refused = connection->refused;
	connection->refused = NULL;
	overdue = take_overdue(connection, now_ms, &next_ms);
	guard_socket(connection, now_ms, &next_ms);
	memcpy(reason, connection->status.reason, sizeof(reason));
	pthread_mutex_unlock(&connection->lock);

	fail_jobs(late, 0, *reason ? reason : "the broker did not answer in time");
	fail_jobs(refused, 0, reason);
	if (overdue) {
		overdue->overdue(overdue);
		pthread_mutex_lock(&connection->lock);
		connection->running_busy = false;
		pthread_cond_signal(&connection->answered);
		pthread_mutex_unlock(&connection->lock);
	}
	return next_ms;
}
