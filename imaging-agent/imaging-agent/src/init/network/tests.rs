use super::*;

fn given() -> DhcpV4Lease {
    let mut given = DhcpV4Lease::default();
    given.yiaddr = Ipv4Addr::new(192, 0, 2, 50);
    given.subnet_mask = Ipv4Addr::new(255, 255, 254, 0);
    given.srv_id = Ipv4Addr::new(192, 0, 2, 1);
    given.lease_time_sec = 600;
    given.gateways = Some(vec![Ipv4Addr::new(192, 0, 2, 254)]);
    given
}

#[test]
fn a_lease_says_what_the_server_gave() {
    let mut given = given();
    given.siaddr = Ipv4Addr::new(192, 0, 2, 2);
    given.file_str = Some("lamplighter.efi".to_owned());
    let lease = lease_of("eth0", &given);
    assert_eq!(
        (lease.address, lease.prefix_bits),
        (Ipv4Addr::new(192, 0, 2, 50), 23)
    );
    assert_eq!(lease.router, Some(Ipv4Addr::new(192, 0, 2, 254)));
    assert_eq!(lease.siaddr, Some(Ipv4Addr::new(192, 0, 2, 2)));
    assert_eq!(lease.boot_file.as_deref(), Some("lamplighter.efi"));
    assert_eq!(lease.duration, Duration::from_secs(600));
}

#[test]
fn classless_routes_replace_the_router() {
    use mozim::DhcpV4ClasslessRoute as Route;
    let route = |prefix_length, router| Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_length,
        router,
    };
    let (first, second) = (Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 4));
    let mut given = given();
    given.classless_routes = Some(vec![route(8, first), route(0, second)]);
    assert_eq!(lease_of("eth0", &given).router, Some(second));
    given.classless_routes = Some(vec![route(8, first)]);
    assert_eq!(
        lease_of("eth0", &given).router,
        None,
        "option 3 is not looked at then"
    );
}

#[test]
fn network_devices_that_nobody_drives_are_named() {
    let sys = tempfile::tempdir().unwrap();
    for (slot, class, driven) in [
        ("a", "0x020000", false),
        ("b", "0x020000", true),
        ("c", "0x010802", false),
    ] {
        let folder = sys.path().join("bus/pci/devices").join(slot);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("class"), format!("{class}\n")).unwrap();
        fs::write(folder.join("vendor"), "0x8086\n").unwrap();
        fs::write(folder.join("device"), "0x15f9\n").unwrap();
        if driven {
            fs::create_dir(folder.join("driver")).unwrap();
        }
    }
    let without_driver = network_devices_without_driver(sys.path());
    assert_eq!(without_driver, ["8086:15f9"]);
    let error = BringUpError::NoInterface { without_driver };
    assert!(error.to_string().contains("8086:15f9"), "{error}");
}
