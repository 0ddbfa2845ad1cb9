/* SPDX-License-Identifier: MIT */
#include "contract.h"

#include <signal.h>
#include <sys/wait.h>

/*
 * Another mount, in a process of its own, that takes a message and dies, or is stopped past its lease.
 * SQLite only: a broker tells by the connection, which the fault tests cut.
 */

/* The other mount: takes one message, says so, waits to be stopped, continued and told, settles. */
int lease_child(const char *queue)
{
	struct mqfs_delivery *delivery;
	struct reader *reader;
	char go;
	int result;

	settings.lease_timeout_ms = 1000;
	contract_open();
	settings.lease_timeout_ms = 1000;
	mqfs_backend_close(backend);
	backend = NULL;
	{
		char *error = NULL;

		if (mqfs_backend_open(contract_url(), &settings, &backend, &error) < 0)
			return 3;
	}
	reader = reader_new(backend, queue);
	delivery = claim_within(reader, ENOUGH_MS);
	if (!delivery)
		return 4;
	if (write(STDOUT_FILENO, "t", 1) != 1 || read(STDIN_FILENO, &go, 1) != 1)
		return 5;
	result = settle(delivery, MQFS_VERB_ACK);
	contract_teardown(NULL);
	mqfs_backend_close(backend);
	return result == -ESTALE ? 42 : result == 0 ? 43 : 6;
}

struct child {
	pid_t pid;
	int to, from;
};

static struct child start_child(const char *queue)
{
	int down[2], up[2];
	struct child child;
	char taken;

	assert_int_equal(pipe2(down, O_CLOEXEC) | pipe2(up, O_CLOEXEC), 0);
	child.pid = fork();
	assert_true(child.pid >= 0);
	if (child.pid == 0) {
		dup2(down[0], STDIN_FILENO);
		dup2(up[1], STDOUT_FILENO);
		execl("/proc/self/exe", "contract", "--lease-child", queue, NULL);
		_exit(127);
	}
	close(down[0]);
	close(up[1]);
	child.to = down[1];
	child.from = up[0];
	assert_int_equal(read(child.from, &taken, 1), 1);
	return child;
}

static int end_child(struct child *child)
{
	int status;

	close(child->to);
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	close(child->from);
	return status;
}

static void a_dead_mounts_messages_come_back(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;
	struct child child;

	(void)state;
	if (is_amqp())
		skip();
	publish(queue, "orphan");
	child = start_child(queue);
	kill(child.pid, SIGKILL);
	end_child(&child);
	delivery = claim(reader_new(backend, queue));
	assert_true(has_body(delivery, "orphan"));
	assert_true(delivery->redelivered);
}

static void a_stopped_mount_settles_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery;
	struct child child;
	int status;

	(void)state;
	if (is_amqp())
		skip();
	publish(queue, "contended");
	child = start_child(queue);
	kill(child.pid, SIGSTOP);
	delivery = claim(reader); /* its lease is over */
	assert_true(has_body(delivery, "contended"));
	kill(child.pid, SIGCONT);
	assert_int_equal(write(child.to, "g", 1), 1);
	status = end_child(&child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42); /* -ESTALE */
	assert_int_equal(mqfs_consumer_state(window(reader), delivery), MQFS_DELIVERY_CLAIMED);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), 0);
	assert_true(ready_becomes(queue, 0));
}

int test_leases(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(a_dead_mounts_messages_come_back),
	    contract_test(a_stopped_mount_settles_nothing),
	};

	return cmocka_run_group_tests_name("leases", tests, NULL, NULL);
}
