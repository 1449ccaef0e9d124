//! The program in the built-in hello-world image: says what had to work for it to be seen.

use std::io::{self, Write};

const MESSAGE: &str = "
Hello from Wharf!
If you can read this, everything is in its place.

What just happened:
 1. The wharf command asked the engine for a container from the image \"hello-world\". That image is part of the
    engine, so no registry was needed.
 2. The engine put a writable layer over the image's files, made a network address, and gave both to a shim,
    the small process that stays with the container.
 3. The shim made the container's namespaces and control group, and in them started this program: the only file
    in the image.
 4. The program wrote these lines; the shim kept them in the container's log, and the engine passed them on to you.

What to try next, with a root filesystem of your own:
    tar -C ./rootfs -c . | wharf import - mine
    wharf run -it mine sh

";

fn main() -> io::Result<()> {
    // Checked: a full disk or closed pipe behind the log must show in the exit code.
    io::stdout().lock().write_all(MESSAGE.as_bytes())
}
