/* SPDX-License-Identifier: MIT */
#include "connection.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.connection"
#include <mqfs/log.h>

#include "watchdog.h"

/* Between two rounds of all hosts, doubled up to the last; half of it is jitter, so that a broker that comes back isn't
 * met by everybody at once. */
#define BACKOFF_FIRST_MS 100
#define BACKOFF_LAST_MS 3000
/* A connection that lasted less counts as a failure: the broker may throw us out each time. */
#define LASTED_MS 2000
#define CLOSE_MS 1000
#define TICK_MS 10000
/* librabbitmq decodes nested tables by recursion, a few hundred bytes for each of up to 26,000 levels of a frame. */
#define STACK_BYTES (16u << 20)

int connection_init(struct connection *connection, const struct connection_role *role, void *arg, const struct url *url,
                    const struct mqfs_settings *settings, struct watchdog *watchdog)
{
	*connection = (struct connection){
	    .role = role,
	    .arg = arg,
	    .url = url,
	    .settings = *settings,
	    .watchdog = watchdog,
	    .watch_fd = -1,
	    .calls_until_ms = MQFS_NEVER,
	};
	atomic_init(&connection->armed_ms, MQFS_NEVER);
	atomic_init(&connection->asked_ms, 0);
	frames_init(&connection->frames, role->events, arg);
	connection->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (connection->wake_fd < 0)
		return -errno;
	pthread_mutex_init(&connection->lock, NULL);
	pthread_cond_init(&connection->answered, NULL);
	return 0;
}

/* ---- the owner ---- */

void connection_fail(struct connection *connection, const char *format, ...)
{
	va_list arguments;

	if (connection->failed)
		return;
	connection->failed = true;
	va_start(arguments, format);
	vsnprintf(connection->failure, sizeof(connection->failure), format, arguments);
	va_end(arguments);
}

static void set_status(struct connection *connection, bool connected, const char *reason)
{
	pthread_mutex_lock(&connection->lock);
	connection->status.connected = connected;
	snprintf(connection->status.reason, sizeof(connection->status.reason), "%s", reason);
	if (connected) {
		connection->status.fatal = 0;
		connection->status.tried = false;
	}
	pthread_mutex_unlock(&connection->lock);
	if (connection->changed)
		connection->changed(connection->changed_arg);
}

void connection_set_blocked(struct connection *connection, const char *reason)
{
	char text[160] = "";

	if (reason)
		snprintf(text, sizeof(text), "blocked by the broker: %s", reason);
	set_status(connection, true, text);
}

static int64_t backoff_ms(unsigned failures)
{
	int64_t delay_ms = failures > 5 ? BACKOFF_LAST_MS : (int64_t)BACKOFF_FIRST_MS << failures;
	uint16_t random = 0;

	if (delay_ms > BACKOFF_LAST_MS)
		delay_ms = BACKOFF_LAST_MS;
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
		random = (uint16_t)getpid();
	return delay_ms / 2 + delay_ms / 2 * random / UINT16_MAX;
}

static void watch_socket(struct connection *connection, int fd)
{
	pthread_mutex_lock(&connection->lock);
	if (connection->watch_fd >= 0)
		close(connection->watch_fd);
	connection->watch_fd = fd;
	pthread_mutex_unlock(&connection->lock);
}

/* Frees the socket and all that librabbitmq holds. */
static void discard(struct connection *connection)
{
	watch_socket(connection, -1);
	frames_reset(&connection->frames);
	amqp_destroy_connection(connection->state);
	connection->state = NULL;
	connection->failed = false; /* or what may be run without a connection would not be */
	connection->frames.state = NULL;
	memset(connection->channels, 0, sizeof(connection->channels));
	memset(connection->retired, 0, sizeof(connection->retired));
	atomic_store(&connection->armed_ms, MQFS_NEVER);
	connection_expect(connection, false);
}

static void begin_round(struct connection *connection, int64_t retry_ms)
{
	connection->tried = 0;
	connection->fatal = 0;
	connection->round[0] = '\0';
	connection->retry_ms = retry_ms;
}

/* The next host in turn, also when the present one has served long: it may be gone for good. */
static void drop(struct connection *connection)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();

	log_debug("%s: %s", connection->role->name, connection->failure);
	set_status(connection, false, connection->failure);
	connection->role->lost(connection->arg, -ETIMEDOUT, connection->failure);
	discard(connection);
	connection->failures = now_ms - connection->opened_ms < LASTED_MS ? connection->failures + 1 : 0;
	connection->host = (connection->host + 1) % connection->url->count;
	begin_round(connection, now_ms + backoff_ms(connection->failures));
}

/* What was wrong with each host; alike for several addresses of one broker, and then said once. */
static void note_failure(struct connection *connection, int result)
{
	size_t used = strlen(connection->round);

	if (connection->fatal == 0 && (result == -EACCES || result == -ENOENT || result == -EINVAL))
		connection->fatal = result;
	if (!strstr(connection->round, connection->failure))
		snprintf(connection->round + used, sizeof(connection->round) - used, "%s%s", used ? "; " : "",
		         connection->failure);
}

static void next_host(struct connection *connection, int result)
{
	bool all = ++connection->tried == connection->url->count, before;

	note_failure(connection, result);
	connection->host = (connection->host + 1) % connection->url->count;
	connection->retry_ms = mqfs_clock_monotonic_ms();
	pthread_mutex_lock(&connection->lock);
	before = connection->status.tried;
	if (all) {
		connection->status.fatal = connection->fatal;
		connection->status.tried = true;
	}
	pthread_mutex_unlock(&connection->lock);
	if (all || !before)
		set_status(connection, false, connection->round);
	if (all)
		begin_round(connection, connection->retry_ms + backoff_ms(++connection->failures));
}

/* The broker is there: whoever waits for it need not wait longer, nor look elsewhere. */
static void hurry_others(struct connection *connection)
{
	const struct watchdog *watchdog = connection->watchdog;
	struct connection *other;

	for (size_t i = 0; i < watchdog->count; i++) {
		other = watchdog->connections[i];
		pthread_mutex_lock(&other->lock);
		other->hurry = other != connection && !other->status.connected;
		other->hurry_host = connection->host;
		pthread_mutex_unlock(&other->lock);
		connection_wake(other);
	}
}

static bool is_hurried(struct connection *connection)
{
	bool hurry;

	pthread_mutex_lock(&connection->lock);
	hurry = connection->hurry;
	if (hurry)
		connection->host = connection->hurry_host;
	connection->hurry = false;
	pthread_mutex_unlock(&connection->lock);
	return hurry;
}

/* Logs in and lets the role make itself at home. */
static void connect_once(struct connection *connection)
{
	int r;

	connection->failed = false;
	r = connection_login(connection);
	if (r == 0) {
		connection->opened_ms = mqfs_clock_monotonic_ms();
		connection->frames.state = connection->state;
		r = connection->role->opened(connection->arg);
		if (r == 0 && !connection->failed) {
			begin_round(connection, 0);
			set_status(connection, true, "");
			hurry_others(connection);
			return;
		}
		connection->role->lost(connection->arg, -ETIMEDOUT, connection->failure);
	}
	log_debug("%s: %s", connection->role->name, connection->failure);
	if (connection->state)
		discard(connection);
	next_host(connection, r);
}

/* Heartbeats and close-oks are sent in here. */
void connection_read(struct connection *connection)
{
	static const struct timeval at_once = {0};
	amqp_frame_t frame;
	int status;

	do {
		connection_arm(connection, mqfs_clock_monotonic_ms() + CONNECTION_CALL_MS);
		status = amqp_simple_wait_frame_noblock(connection->state, &frame, &at_once);
		if (status == AMQP_STATUS_TIMEOUT)
			break;
		if (status < 0) {
			connection_sent(connection, status);
			break;
		}
		if (frames_dispatch(&connection->frames, &frame) < 0)
			connection_fail(connection, "%s", connection->frames.error);
		amqp_maybe_release_buffers_on_channel(connection->state, frame.channel);
	} while (!connection->failed &&
	         (amqp_frames_enqueued(connection->state) || amqp_data_in_buffer(connection->state)));
	connection_arm(connection, MQFS_NEVER);
}

static int poll_timeout(int64_t until_ms)
{
	int64_t wait_ms = until_ms == MQFS_NEVER ? -1 : until_ms - mqfs_clock_monotonic_ms();

	if (until_ms == MQFS_NEVER)
		return -1;
	return wait_ms < 0 ? 0 : wait_ms > 60000 ? 60000 : (int)wait_ms;
}

/* Under the lock: has a job come that the present round has not seen, and that can be run now? */
static bool has_come(const struct connection *connection, bool ready, int64_t until_ms)
{
	const struct job *job = connection->jobs;

	if (connection->state)
		return ready && job;
	if (connection->role->lazy && until_ms == MQFS_NEVER)
		return job != NULL;
	while (job && !job->anytime)
		job = job->next;
	return job != NULL;
}

/* Sleeps until something comes, somebody wakes us, or it is time. true: the broker has sent something. */
static bool rest(struct connection *connection, int64_t until_ms)
{
	int fd = connection->state ? amqp_get_sockfd(connection->state) : -1;
	struct pollfd files[2] = {{.fd = connection->wake_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	bool ready = !connection->role->ready || !connection->state || connection->role->ready(connection->arg);
	bool gathering = connection->state && connection->gathering;
	uint64_t count;
	int r;

	if (gathering)
		files[0].fd = -1;
	pthread_mutex_lock(&connection->lock);
	if (connection->stopping || has_come(connection, ready, until_ms))
		until_ms = 0;
	connection->sleeping = until_ms > 0 && !gathering;
	pthread_mutex_unlock(&connection->lock);
	r = poll(files, 2, poll_timeout(until_ms));
	pthread_mutex_lock(&connection->lock);
	connection->sleeping = false;
	pthread_mutex_unlock(&connection->lock);
	if (r <= 0)
		return false;
	if (files[0].revents && read(connection->wake_fd, &count, sizeof(count)) < 0)
		log_debug("%s: eventfd: %m", connection->role->name);
	return files[1].revents != 0;
}

/* A quarter of the heartbeat that was agreed on with the broker. */
static int64_t tick_ms(const struct connection *connection)
{
	int heartbeat = amqp_get_heartbeat(connection->state);

	return heartbeat > 0 ? heartbeat * 250 : TICK_MS;
}

/* One round of a connection that is up. */
static void serve(struct connection *connection, bool *readable)
{
	int64_t now_ms = mqfs_clock_monotonic_ms(), until_ms;

	/* Heartbeats are sent, and missed, only inside librabbitmq's own calls. */
	if (now_ms >= connection->tick_ms || *readable) {
		connection->tick_ms = now_ms + tick_ms(connection);
		connection_read(connection);
	}
	if (!connection->failed)
		connection_run_jobs(connection);
	until_ms = connection->tick_ms;
	if (!connection->failed && connection->role->work) {
		int64_t due_ms = connection->role->work(connection->arg, mqfs_clock_monotonic_ms());

		until_ms = due_ms < until_ms ? due_ms : until_ms;
	}
	if (connection->failed) {
		drop(connection);
		return;
	}
	amqp_maybe_release_buffers(connection->state);
	*readable = amqp_frames_enqueued(connection->state) || amqp_data_in_buffer(connection->state);
	if (!*readable)
		*readable = rest(connection, until_ms);
}

static bool has_jobs(struct connection *connection)
{
	bool has;

	pthread_mutex_lock(&connection->lock);
	has = connection->jobs != NULL;
	pthread_mutex_unlock(&connection->lock);
	return has;
}

/* One round of a connection that is not. */
static void wait_for_broker(struct connection *connection)
{
	bool wanted;

	connection_run_jobs(connection);
	wanted = !connection->role->lazy || has_jobs(connection);
	if (wanted && (is_hurried(connection) || mqfs_clock_monotonic_ms() >= connection->retry_ms))
		connect_once(connection);
	else
		rest(connection, wanted ? connection->retry_ms : MQFS_NEVER);
}

static bool is_stopping(struct connection *connection)
{
	bool stopping;

	pthread_mutex_lock(&connection->lock);
	stopping = connection->stopping;
	pthread_mutex_unlock(&connection->lock);
	return stopping;
}

static void say_goodbye(struct connection *connection)
{
	static const struct timeval timeout = {.tv_sec = CLOSE_MS / 1000};

	connection->role->lost(connection->arg, -ESHUTDOWN, "shutting down");
	amqp_set_rpc_timeout(connection->state, &timeout);
	connection_arm(connection, mqfs_clock_monotonic_ms() + CLOSE_MS);
	amqp_connection_close(connection->state, AMQP_REPLY_SUCCESS);
	discard(connection);
}

static void *own(void *arg)
{
	struct connection *connection = arg;
	char name[16]; /* the kernel's limit */
	bool readable = false;

	snprintf(name, sizeof(name), "mqfs-%s", connection->role->name);
	pthread_setname_np(pthread_self(), name);
	while (!is_stopping(connection)) {
		if (connection->state)
			serve(connection, &readable);
		else
			wait_for_broker(connection);
	}
	if (connection->state)
		say_goodbye(connection);
	if (connection->role->stopped)
		connection->role->stopped(connection->arg);
	connection_fail_jobs(connection);
	return NULL;
}

int connection_start(struct connection *connection)
{
	pthread_attr_t attributes;
	int r = -pthread_attr_init(&attributes);

	if (r < 0)
		return r;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	r = -pthread_create(&connection->thread, &attributes, own, connection);
	pthread_attr_destroy(&attributes);
	return r;
}

void connection_stop(struct connection *connection)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();

	pthread_mutex_lock(&connection->lock);
	connection->stopping = true;
	connection->stopping_ms = now_ms;
	pthread_mutex_unlock(&connection->lock);
	connection_wake(connection);
	watchdog_notify(connection->watchdog, now_ms + CONNECTION_STOP_MS);
}

void connection_join(struct connection *connection)
{
	pthread_join(connection->thread, NULL);
}

void connection_deinit(struct connection *connection)
{
	assert(!connection->jobs && !connection->refused && !connection->state);
	close(connection->wake_fd);
	pthread_cond_destroy(&connection->answered);
	pthread_mutex_destroy(&connection->lock);
}

void connection_status(struct connection *connection, struct connection_status *ret_status)
{
	pthread_mutex_lock(&connection->lock);
	*ret_status = connection->status;
	pthread_mutex_unlock(&connection->lock);
}
