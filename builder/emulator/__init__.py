"""Boots finished images in QEMU, as a cloud would, and talks to what runs in them.

    with boot(Machine(image=Disk(path=Path("image.qcow2"))), directory) as guest:
        guest.wait_for_ssh(300)
        guest.wait_for_login(60, user="debian")
        print(guest.ssh("uname -r", user="debian").stdout, guest.seconds)

`machine` says what is booted, `guest` boots it; the other modules are one part of that each.
"""
