/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <signal.h>
#include <time.h>

struct mqfs_backend *backend;
struct mqfs_settings settings;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_changed(void)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

void faults_lock(void)
{
	pthread_once(&once, init_changed);
	pthread_mutex_lock(&lock);
}

void faults_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

bool faults_wait(int64_t deadline_ms)
{
	struct timespec deadline = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};

	return pthread_cond_timedwait(&changed, &lock, &deadline) == 0;
}

int64_t in_ms(int64_t ms)
{
	return mqfs_clock_monotonic_ms() + ms;
}

void sleep_ms(int64_t ms)
{
	struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

/* ---- the broker ---- */

static const char *environment(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

void ctl(const char *format, ...)
{
	char words[1024], line[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(words, sizeof(words), format, arguments);
	va_end(arguments);
	snprintf(line, sizeof(line), "%s %s >/dev/null 2>&1", environment("MQFS_TEST_RABBITMQCTL"), words);
	if (system(line) != 0)
		fail_msg("rabbitmqctl %s", words);
}

pid_t broker_pid(void)
{
	const char *pid = environment("MQFS_TEST_BROKER_PID");

	return pid ? (pid_t)atol(pid) : 0;
}

const char *url_with(const char *credentials, const char *vhost, int port)
{
	static char url[256];
	const char *own = environment("MQFS_TEST_URL");
	const char *host = strchr(own, '@') + 1, *colon = strchr(host, ':');

	snprintf(url, sizeof(url), "amqp://%s@%.*s:%d/%s", credentials, (int)(colon - host), host,
	         port ? port : atoi(colon + 1), vhost);
	return url;
}

struct mqfs_backend *open_url(const char *url)
{
	struct mqfs_backend *opened;
	char *error = NULL;
	int r = mqfs_backend_open(url, &settings, &opened, &error);

	if (r < 0) {
		print_message("open: %s\n", error ? error : "");
		free(error);
		fail_msg("open: %d", r);
	}
	return opened;
}

int faults_setup(void **state)
{
	(void)state;
	if (!environment("MQFS_TEST_URL") || !environment("MQFS_TEST_RABBITMQCTL"))
		return 0;
	mqfs_settings_init(&settings);
	settings.heartbeat_ms = 2000;
	backend = open_url(environment("MQFS_TEST_URL"));
	return 0;
}

int faults_teardown(void **state)
{
	int64_t began_ms = in_ms(0);

	(void)state;
	if (broker_pid())
		kill(broker_pid(), SIGCONT); /* whatever a test that failed has left behind */
	if (!backend)
		return 0;
	mqfs_backend_close(backend);
	backend = NULL;
	return in_ms(0) - began_ms > 8000 ? -1 : 0;
}

/* ---- requests ---- */

struct mqfs_message *message_of(size_t bytes)
{
	struct mqfs_message *message = mqfs_message_new();

	mqfs_body_truncate(message->body, bytes);
	mqfs_message_stamp(message, "file.bin", mqfs_clock_realtime_us());
	return message;
}

void begin(struct call *call)
{
	*call = (struct call){.began_ms = in_ms(0)};
}

static void answered(struct call *call, int result, const char *reason)
{
	if (call->done)
		abort(); /* twice */
	call->done = true;
	call->result = result;
	call->took_ms = in_ms(0) - call->began_ms;
	snprintf(call->reason, sizeof(call->reason), "%s", reason ? reason : "");
	pthread_cond_broadcast(&changed);
}

void call_done(void *arg, int result, const char *reason)
{
	faults_lock();
	answered(arg, result, reason);
	faults_unlock();
}

int finish(struct call *call)
{
	if (!WAIT_UNTIL(call->done, 4 * ENOUGH_MS))
		fail_msg("no completion");
	return call->result;
}

void begin_publish(struct call *call, const char *queue, struct mqfs_message *message, int64_t timeout_ms)
{
	begin(call);
	mqfs_publish(backend, queue, MQFS_PLACE_READY, 0, message, in_ms(timeout_ms), call_done, call);
}

int publish_to(struct mqfs_backend *to, const char *queue, struct mqfs_message *message, int64_t timeout_ms)
{
	struct call call;

	begin(&call);
	mqfs_publish(to, queue, MQFS_PLACE_READY, 0, message, in_ms(timeout_ms), call_done, &call);
	return finish(&call);
}

int find_queue(const char *queue, int64_t timeout_ms)
{
	struct call call;

	begin(&call);
	mqfs_queue_find(backend, queue, in_ms(timeout_ms), call_done, &call);
	return finish(&call);
}

const char *make_queue(const char *stem)
{
	static char name[128];
	static unsigned count;
	struct call call;

	snprintf(name, sizeof(name), "fault-%s-%d-%u", stem, (int)getpid(), ++count);
	begin(&call);
	mqfs_queue_declare(backend, name, &settings, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(finish(&call), 0);
	return name;
}

static void depths_done(void *arg, int result, const struct mqfs_depths *depths)
{
	struct call *call = arg;

	faults_lock();
	if (depths)
		call->depths = *depths;
	answered(call, result, NULL);
	faults_unlock();
}

static struct mqfs_depths depths_of(const char *queue)
{
	struct call call;

	begin(&call);
	mqfs_queue_depths(backend, queue, in_ms(ENOUGH_MS), depths_done, &call);
	assert_int_equal(finish(&call), 0);
	return call.depths;
}

int64_t ready_in(const char *queue)
{
	return depths_of(queue).ready;
}

int64_t dead_in(const char *queue)
{
	return depths_of(queue).dead;
}

int settle(struct mqfs_delivery *delivery, enum mqfs_verb verb)
{
	struct mqfs_disposition disposition = {.verb = verb};
	struct call call;

	begin(&call);
	mqfs_settle(backend, delivery, &disposition, in_ms(ENOUGH_MS), call_done, &call);
	return finish(&call);
}

bool works_again(const char *queue, int64_t within_ms)
{
	int64_t deadline_ms = in_ms(within_ms);

	while (in_ms(0) < deadline_ms) {
		if (publish_to(backend, queue, message_of(10), 1000) == 0)
			return true;
		sleep_ms(50);
	}
	return false;
}

static bool is_blocked(void)
{
	struct mqfs_backend_status status;

	mqfs_backend_status(backend, &status);
	return strstr(status.reason, "blocked");
}

/* The alarm sets in a while after rabbitmqctl has answered, and the broker says so only to who publishes. */
int raise_alarm(void)
{
	char queue[128];
	int64_t deadline_ms;
	int r = 0;

	snprintf(queue, sizeof(queue), "%s", make_queue("probe"));
	ctl("set_vm_memory_high_watermark absolute 1MB");
	for (deadline_ms = in_ms(ENOUGH_MS); !is_blocked(); r = publish_to(backend, queue, message_of(10), 1000))
		assert_true(in_ms(0) < deadline_ms);
	return r;
}

void end_alarm(void)
{
	ctl("set_vm_memory_high_watermark 0.4");
}

/* ---- a sink ---- */

static void on_delivered(void *arg, struct mqfs_delivery *delivery)
{
	struct intake *intake = arg;

	faults_lock();
	if (intake->count < HELD_MAX)
		intake->held[intake->count++] = delivery;
	pthread_cond_broadcast(&changed);
	faults_unlock();
}

static void on_lost(void *arg, uint64_t generation)
{
	struct intake *intake = arg;

	faults_lock();
	intake->lost++;
	intake->lost_generation = generation;
	pthread_cond_broadcast(&changed);
	faults_unlock();
}

static void on_drained(void *arg)
{
	struct intake *intake = arg;

	faults_lock();
	intake->drained++;
	pthread_cond_broadcast(&changed);
	faults_unlock();
}

static void on_prepared(void *arg, int result, const char *reason)
{
	struct intake *intake = arg;

	(void)reason;
	faults_lock();
	intake->prepared++;
	intake->prepared_result = result;
	pthread_cond_broadcast(&changed);
	faults_unlock();
}

static void on_ended(void *arg, int result, const char *reason)
{
	struct intake *intake = arg;

	(void)reason;
	faults_lock();
	intake->ended++;
	intake->ended_result = result;
	pthread_cond_broadcast(&changed);
	faults_unlock();
}

static const struct mqfs_sink sink = {
    .delivered = on_delivered,
    .lost = on_lost,
    .drained = on_drained,
    .prepared = on_prepared,
    .ended = on_ended,
};

void intake_start(struct intake *intake, const char *queue, int prefetch)
{
	*intake = (struct intake){0};
	snprintf(intake->queue, sizeof(intake->queue), "%s", queue);
	mqfs_consume(backend, queue, prefetch, &sink, intake);
}

void intake_change(struct intake *intake, int prefetch)
{
	mqfs_consume(backend, intake->queue, prefetch, &sink, intake);
}

void intake_stop(struct intake *intake)
{
	struct call call;

	begin(&call);
	mqfs_cancel(backend, intake->queue, call_done, &call);
	assert_int_equal(finish(&call), 0);
	for (size_t i = 0; i < intake->count; i++)
		mqfs_delivery_unref(intake->held[i]);
	intake->count = 0;
}
