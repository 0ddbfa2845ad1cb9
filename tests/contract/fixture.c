/* SPDX-License-Identifier: MIT */
#include "contract.h"

struct mqfs_backend *backend;
struct mqfs_settings settings;

static char url[512];
static char directory[] = "/tmp/mqfs-contract-XXXXXX";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;

#define DEFERRED_MAX 4096
static struct {
	void (*undo)(void *arg);
	void *arg;
} deferred[DEFERRED_MAX];
static size_t deferred_count;

static void settings_reset(void)
{
	mqfs_settings_init(&settings);
	settings.backoff_base_ms = 1000;
	settings.connect_timeout_ms = 5000;
}

static struct mqfs_backend *open_url(void)
{
	struct mqfs_backend *opened = NULL;
	char *error = NULL;
	int result = mqfs_backend_open(url, &settings, &opened, &error);

	if (result < 0) {
		fprintf(stderr, "contract: can't open the backend: %s\n", error ? error : strerror(-result));
		free(error);
		exit(2);
	}
	return opened;
}

void contract_open(void)
{
	const char *given = getenv("MQFS_TEST_URL");
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attributes);
	pthread_condattr_destroy(&attributes);
	if (given && *given) {
		snprintf(url, sizeof(url), "%s", given);
	} else {
		if (!mkdtemp(directory))
			abort();
		snprintf(url, sizeof(url), "sqlite:%s/store", directory);
		setenv("MQFS_TEST_URL", url, 1); /* for the program that test_leases starts */
	}
	settings_reset();
	backend = open_url();
}

void contract_close(void)
{
	static const char *const files[] = {"store", "store-wal", "store-shm"};
	char path[sizeof(directory) + 32];

	mqfs_backend_close(backend);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
		unlink(path);
	}
	rmdir(directory);
}

bool is_amqp(void)
{
	return strncmp(url, "amqp", 4) == 0;
}

const char *contract_url(void)
{
	return url;
}

int contract_setup(void **state)
{
	(void)state;
	settings_reset();
	return 0;
}

int contract_teardown(void **state)
{
	(void)state;
	while (deferred_count > 0) {
		deferred_count--;
		deferred[deferred_count].undo(deferred[deferred_count].arg);
	}
	return 0;
}

void defer(void (*undo)(void *arg), void *arg)
{
	assert_true(deferred_count < DEFERRED_MAX);
	deferred[deferred_count].undo = undo;
	deferred[deferred_count++].arg = arg;
}

struct another {
	struct mqfs_backend *opened;
};

static struct another *anothers[16];

static void undo_another(void *arg)
{
	struct another *another = arg;

	if (another->opened)
		mqfs_backend_close(another->opened);
	for (size_t i = 0; i < 16; i++)
		if (anothers[i] == another)
			anothers[i] = NULL;
	free(another);
}

struct mqfs_backend *open_another(void)
{
	struct another *another = calloc(1, sizeof(*another));
	size_t i = 0;

	assert_non_null(another);
	another->opened = open_url();
	while (anothers[i])
		assert_true(++i < 16);
	anothers[i] = another;
	defer(undo_another, another);
	return another->opened;
}

void close_another(struct mqfs_backend *opened)
{
	for (size_t i = 0; i < 16; i++)
		if (anothers[i] && anothers[i]->opened == opened)
			anothers[i]->opened = NULL;
	mqfs_backend_close(opened);
}

void shared_lock(void)
{
	pthread_mutex_lock(&lock);
}

void shared_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void shared_changed(void)
{
	pthread_cond_broadcast(&changed);
}

bool shared_wait(int64_t deadline_ms)
{
	struct timespec until = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};

	return pthread_cond_timedwait(&changed, &lock, &until) == 0;
}

int64_t in_ms(int64_t ms)
{
	return mqfs_clock_monotonic_ms() + ms;
}

void sleep_ms(int64_t ms)
{
	struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&span, NULL);
}

struct call {
	bool done;
	int result;
	char reason[256];
};

struct call *call_new(void)
{
	struct call *call = calloc(1, sizeof(*call));

	assert_non_null(call);
	return call;
}

void call_done(void *arg, int result, const char *reason)
{
	struct call *call = arg;

	shared_lock();
	if (call->done) {
		fprintf(stderr, "contract: a completion ran twice\n");
		abort();
	}
	call->done = true;
	call->result = result;
	snprintf(call->reason, sizeof(call->reason), "%s", reason ? reason : "");
	shared_changed();
	shared_unlock();
}

int call_wait(struct call *call)
{
	int result;

	/* Without a completion its memory is not ours to free. */
	if (!WAIT_UNTIL(call->done, 2 * ENOUGH_MS))
		fail_msg("no completion within %d ms", 2 * ENOUGH_MS);
	result = call->result;
	if (result < 0 && *call->reason && getenv("MQFS_TEST_DEBUG"))
		print_message("    (%s: %s)\n", strerrorname_np(-result), call->reason);
	free(call);
	return result;
}
