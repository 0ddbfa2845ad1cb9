/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <dirent.h>
#include <signal.h>

#include <mqfs/outbox.h>

/* The outbox in front of a broker that is away, blocked or silent: all of it arrives soon after. */

enum { MESSAGES = 600 };

static char directory[64];
static struct mqfs_state *opened;
static struct mqfs_outbox *outbox;
static int told, sent, refused; /* with the lock */

static void on_changed(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	(void)entry;
	faults_lock();
	told++;
	faults_unlock();
}

static void on_removed(void *arg, int64_t id, bool was_sent)
{
	(void)arg;
	(void)id;
	faults_lock();
	sent += was_sent;
	faults_unlock();
}

static void on_refused(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	(void)entry;
	faults_lock();
	refused++;
	faults_unlock();
}

static int setup(void **state)
{
	static const struct mqfs_outbox_watcher watcher = {
	    .changed = on_changed, .removed = on_removed, .refused = on_refused};
	static const struct mqfs_outbox_limits limits = {.max_bytes = 1 << 30, .publish_timeout_ms = 1000};
	char *error = NULL;

	if (faults_setup(state) < 0)
		return -1;
	if (!backend)
		return 0;
	told = sent = refused = 0;
	strcpy(directory, "/tmp/mqfs-fault-XXXXXX");
	if (!mkdtemp(directory) || mqfs_state_open(directory, getenv("MQFS_TEST_URL"), &opened, &error) < 0)
		return -1;
	return mqfs_outbox_open(opened, backend, &limits, &watcher, NULL, &outbox);
}

static int teardown(void **state)
{
	DIR *dir = backend ? opendir(directory) : NULL;
	struct dirent *file;
	char path[400];

	if (broker_pid())
		kill(broker_pid(), SIGCONT);
	if (backend) {
		mqfs_outbox_close(outbox);
		mqfs_state_close(opened);
	}
	while (dir && (file = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", directory, file->d_name);
		unlink(path);
	}
	if (dir)
		closedir(dir);
	rmdir(directory);
	return faults_teardown(state);
}

static void put_done(void *arg, int result, int64_t id, const char *name)
{
	(void)id;
	(void)name;
	call_done(arg, result, NULL);
}

static void put_all(const char *queue)
{
	static struct call calls[MESSAGES];
	struct mqfs_entry entry = {.kind = MQFS_ENTRY_WAITING, .queue = queue, .priority = -1, .name = "x"};

	for (int i = 0; i < MESSAGES; i++) {
		begin(&calls[i]);
		mqfs_outbox_put(outbox, &entry, message_of(100), in_ms(ENOUGH_MS), put_done, &calls[i]);
	}
	for (int i = 0; i < MESSAGES; i++)
		assert_int_equal(finish(&calls[i]), 0);
}

static int value_of(const int *counter)
{
	int value;

	faults_lock();
	value = *counter;
	faults_unlock();
	return value;
}

/* The watcher wakes nobody: look now and then. */
static void all_are_sent(const char *queue, int64_t duplicates)
{
	int64_t begin_ms = in_ms(0);

	while (value_of(&sent) < MESSAGES && in_ms(0) - begin_ms < 10000)
		sleep_ms(50);
	assert_int_equal(value_of(&sent), MESSAGES);
	assert_int_equal(value_of(&refused), 0);
	/* The connection that counts may come back later than the one that publishes. */
	while (find_queue(queue, 1000) < 0 && in_ms(0) - begin_ms < 10000)
		sleep_ms(50);
	assert_in_range(ready_in(queue), MESSAGES, MESSAGES + duplicates);
	print_message("    all sent after %lld ms, %lld twice\n", (long long)(in_ms(0) - begin_ms),
	              (long long)(ready_in(queue) - MESSAGES));
}

static void a_broker_that_was_away(void **state)
{
	char queue[128];

	(void)state;
	if (!backend)
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("away"));
	ctl("stop_app");
	put_all(queue);
	sleep_ms(1000);
	assert_int_equal(value_of(&sent), 0);
	ctl("start_app");
	all_are_sent(queue, 1);
}

static void a_broker_that_was_blocked(void **state)
{
	char queue[128];

	(void)state;
	if (!backend)
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("alarm"));
	raise_alarm();
	put_all(queue);
	sleep_ms(2500);
	assert_int_equal(value_of(&sent), 0);
	end_alarm();
	all_are_sent(queue, 1);
}

/* Longer than a heartbeat: each probe that it did not answer may come twice, not a window. */
static void a_broker_that_was_stopped(void **state)
{
	char queue[128];

	(void)state;
	if (!backend || !broker_pid())
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("stopped"));
	assert_int_equal(kill(broker_pid(), SIGSTOP), 0);
	put_all(queue);
	sleep_ms(6000);
	kill(broker_pid(), SIGCONT);
	all_are_sent(queue, 6);
}

static void connections_that_are_closed(void **state)
{
	char queue[128];

	(void)state;
	if (!backend)
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("closed"));
	put_all(queue);
	ctl("close_all_connections fault");
	all_are_sent(queue, 256);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_broker_that_was_away, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_broker_that_was_blocked, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_broker_that_was_stopped, setup, teardown),
	    cmocka_unit_test_setup_teardown(connections_that_are_closed, setup, teardown),
	};

	return cmocka_run_group_tests_name("outbox faults", tests, NULL, NULL);
}
