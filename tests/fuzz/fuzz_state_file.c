/* SPDX-License-Identifier: MIT */
/*
 * State files that were changed behind mqfs's back: the input says how (database.h), and then what to do with the
 * entries that are found. Such a file is refused; or it is served: the watcher is told, what waits is sent, and every
 * request is answered once.
 */
#include "database.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/failure.h>
#include <mqfs/outbox.h>
#include <mqfs/records.h>

#define BROKER "amqp://host:5672/vhost"
#define ENOUGH_MS 10000
#define ENTRIES_MAX 16
#define DAY_MS INT64_C(86400000)

/* A refusal is tried three times, 30 ms apart, for the sake of others who may just be writing. Nobody is. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __real_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	return time->tv_sec == 0 && time->tv_nsec == 30000000 ? 0 : __real_nanosleep(time, left);
}

/* ---- a broker that refuses every third message ---- */

static unsigned published; /* on the state's thread */
static atomic_bool connected;

static void publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                    struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	(void)backend, (void)queue, (void)place, (void)delay_ms, (void)deadline_ms;
	expect_readable(message);
	mqfs_message_free(message);
	done(arg, published++ % 3 == 2 ? -ENOENT : 0, "refused");
}

static void status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	(void)backend;
	*ret_status = (struct mqfs_backend_status){.connected = atomic_load(&connected)};
}

static const struct mqfs_backend_ops broker_ops = {.scheme = "fuzz", .publish = publish, .status = status};
static struct mqfs_backend broker = {.ops = &broker_ops};

/* ---- what is told and answered ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* All guarded by lock. */
static struct {
	unsigned asked, answered;
	int64_t ids[ENTRIES_MAX];
	size_t count;
} table;

static struct mqfs_outbox *outbox;

static void on_changed(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	EXPECT(entry->queue && entry->queue[0]);
	EXPECT(entry->name && entry->name[0] && !strchr(entry->name, '/') && strlen(entry->name) < sizeof(mqfs_name_t));
	pthread_mutex_lock(&lock);
	if (table.count < ENTRIES_MAX)
		table.ids[table.count++] = entry->id;
	pthread_mutex_unlock(&lock);
}

static void on_removed(void *arg, int64_t id, bool sent)
{
	(void)arg, (void)id, (void)sent;
}

static void on_refused(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	EXPECT(entry->queue && entry->name);
}

static const struct mqfs_outbox_watcher watcher = {.changed = on_changed, .removed = on_removed, .refused = on_refused};
static const struct mqfs_outbox_limits limits = {.max_bytes = 1 << 20, .publish_timeout_ms = 1000};

static void asking(void)
{
	pthread_mutex_lock(&lock);
	table.asked++;
	pthread_mutex_unlock(&lock);
}

static void answered(int result)
{
	EXPECT(result <= 0);
	pthread_mutex_lock(&lock);
	table.answered++;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

static void await_all(void)
{
	struct timespec deadline;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += ENOUGH_MS / 1000;
	pthread_mutex_lock(&lock);
	while (table.answered < table.asked && r == 0)
		r = pthread_cond_timedwait(&changed, &lock, &deadline);
	EXPECT(r == 0);
	EXPECT(table.answered == table.asked);
	pthread_mutex_unlock(&lock);
}

static int64_t in_time(void)
{
	return mqfs_clock_monotonic_ms() + ENOUGH_MS / 4;
}

static void on_put(void *arg, int result, int64_t id, const char *name)
{
	(void)arg, (void)id;
	EXPECT(result < 0 || (name && name[0]));
	answered(result);
}

static void on_done(void *arg, int result, const char *reason)
{
	(void)arg, (void)reason;
	answered(result);
}

static void on_loaded(void *arg, int result, struct mqfs_message *message)
{
	(void)arg;
	EXPECT((result == 0) == (message != NULL));
	if (message)
		expect_readable(message);
	mqfs_message_free(message);
	answered(result);
}

static void on_found(void *arg, int result, const struct mqfs_record *record)
{
	(void)arg;
	EXPECT(record && record->outcome <= MQFS_OUTCOME_BURY);
	answered(result);
}

/* ---- what a mount does ---- */

static struct mqfs_entry entry_of(int64_t id, enum mqfs_entry_kind kind, const char *name)
{
	return (struct mqfs_entry){.id = id, .kind = kind, .queue = "jobs", .priority = -1, .name = name, .mode = 0600};
}

static struct mqfs_message *message_new(const char *message_id)
{
	struct mqfs_message *message = mqfs_message_new();

	EXPECT(message && mqfs_message_stamp(message, "new.txt", mqfs_clock_realtime_us()) == 0);
	EXPECT(mqfs_message_set_string(&message->message_id, message_id) == 0);
	return message;
}

static void put(enum mqfs_entry_kind kind, const char *name)
{
	struct mqfs_entry entry = entry_of(0, kind, name);

	asking();
	mqfs_outbox_put(outbox, &entry, message_new("id"), in_time(), on_put, NULL);
}

static void treat(int64_t id, struct input *input)
{
	struct mqfs_entry entry = entry_of(id, (enum mqfs_entry_kind)input_below(input, 3), "job");

	asking();
	mqfs_outbox_load(outbox, id, in_time(), on_loaded, NULL);
	asking();
	if (input_byte(input) & 1)
		mqfs_outbox_remove(outbox, id, in_time(), on_done, NULL);
	else
		mqfs_outbox_change(outbox, &entry, input_byte(input) & 1 ? message_new("id") : NULL, in_time(), on_put,
		                   NULL);
}

static void treat_entries(struct input *input)
{
	size_t count;

	pthread_mutex_lock(&lock);
	count = table.count;
	pthread_mutex_unlock(&lock);
	for (size_t i = 0; i < count; i++)
		treat(table.ids[i], input);
	put(MQFS_ENTRY_FILE, "job");
	put(MQFS_ENTRY_WAITING, "job");
	await_all();
}

static void remember(struct mqfs_records *records, const char *message_id)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(message_new(message_id), "jobs");
	struct mqfs_copy_name name;

	EXPECT(delivery);
	name = mqfs_copy_name(delivery);
	asking();
	EXPECT(mqfs_records_find(records, delivery, on_found, NULL) == 0);
	mqfs_records_take(records, delivery);
	if (*message_id) {
		asking();
		EXPECT(mqfs_records_decide(records, &name, MQFS_OUTCOME_RETRY, "e", on_done, NULL) == 0);
	}
	asking();
	EXPECT(mqfs_records_find(records, delivery, on_found, NULL) == 0);
	mqfs_records_give_back(records, delivery);
	await_all();
	mqfs_delivery_unref(delivery);
}

static void serve(struct mqfs_state *state, struct input *input)
{
	struct mqfs_records *records = mqfs_records_open(state, DAY_MS);

	EXPECT(records);
	atomic_store(&connected, input_byte(input) & 1);
	remember(records, "id");
	remember(records, "");
	if (mqfs_outbox_open(state, &broker, &limits, &watcher, NULL, &outbox) == 0) {
		treat_entries(input);
		mqfs_outbox_close(outbox);
	}
	mqfs_records_close(records);
	mqfs_state_close(state);
	memset(&table, 0, sizeof(table));
}

/* ---- the file ---- */

/* A file with everything that there can be in one, as this program makes it. */
static void make_template(char *ret_path, size_t size, struct database *ret_template)
{
	struct mqfs_records *records;
	struct mqfs_state *state;
	char *error = NULL;

	EXPECT(mqfs_state_open(database_room(), BROKER, &state, &error) == 0);
	snprintf(ret_path, size, "%s", mqfs_state_path(state));
	records = mqfs_records_open(state, DAY_MS);
	EXPECT(records && mqfs_outbox_open(state, &broker, &limits, &watcher, NULL, &outbox) == 0);
	for (int i = 0; i < 3; i++) {
		put(MQFS_ENTRY_WAITING, "job");
		put(MQFS_ENTRY_KEPT, "job");
	}
	put(MQFS_ENTRY_FILE, ".file");
	await_all();
	remember(records, "id");
	remember(records, "");
	mqfs_outbox_close(outbox);
	mqfs_records_close(records);
	mqfs_state_close(state);
	memset(&table, 0, sizeof(table));
	database_shrink(ret_path);
	database_read(ret_path, ret_template);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct database template;
	static char path[512];
	struct input input = {.at = data, .left = size};
	struct mqfs_state *state;
	char *error = NULL;
	int r;

	if (!template.bytes[0])
		make_template(path, sizeof(path), &template);
	published = 0;
	database_write(path, &template);
	database_spoil(path, &input);
	r = mqfs_state_open(database_room(), BROKER, &state, &error);
	if (r == 0)
		serve(state, &input);
	else
		EXPECT(r < 0 && error && strstr(error, path));
	free(error);
	return 0;
}
